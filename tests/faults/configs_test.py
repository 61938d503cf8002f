"""A sample of mutated configs; `scripts/soak.py` tries them by thousands."""

import pytest

from sam_jax import configs as shipped
from tests.faults import configs


@pytest.fixture(scope='module', autouse=True)
def _data_sets():
  with configs.stand_ins():
    yield


def test_mutated_configs_are_taken_or_refused_in_a_line():
  # Those of the network are left out for time: it has to be traced.
  sample = [
    m for m in configs.mutations(0, 120) if m.field.split('.')[0] != 'model'
  ]
  made = [configs.attempt(mutation) for mutation in sample]
  assert [x.fault for x in made if x.fault] == []
  outcomes = [x.outcome for x in made]
  assert outcomes.count('refused') > 60 and outcomes.count('taken') > 1


def test_all_fields_and_values_are_tried():
  tried = configs.mutations(0)
  assert len(tried) > 50_000
  assert configs.mutations(0, 9) == tried[:9] != configs.mutations(1, 9)
  for name in configs.CONFIGS:
    assert shipped.find(name)


@pytest.mark.parametrize(
  'size', [2**31 - 1, 2**31, 2**63, 10**40], ids=lambda n: f'{n:.0e}'
)
def test_an_absurd_batch_is_answered_at_once(size):
  for field in ('batch_size', 'm', 'microbatch_size', 'eval_batch_size'):
    mutation = configs.Mutation('default', field, size, is_typed=False)
    assert configs.attempt(mutation).fault == ''


def test_a_fault_is_seen(monkeypatch):
  def broken(config):
    raise TypeError('no')

  monkeypatch.setattr(configs.preparation, 'prepare', broken)
  mutation = configs.Mutation('default', 'seed', 1, is_typed=False)
  assert configs.attempt(mutation).fault.endswith(': TypeError: no')

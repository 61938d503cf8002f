import pytest
import tensorstore

from sam_jax.runs import orbax_memory

_SPECS = (
  {'driver': 'file', 'path': "/some where/it's [a] "},
  {
    'driver': 'ocdbt',
    'base': {'driver': 'file', 'path': '/b/'},
    'config': {'max_inline_value_bytes': 1024, 'compression': None},
    'path': 'x/',
  },
)


@pytest.fixture(autouse=True)
def _stopped():
  orbax_memory.stop_leak()


@pytest.mark.parametrize(
  'prefix', ['KvStore.Spec(', 'Spec of another version(']
)
@pytest.mark.parametrize('spec', _SPECS, ids=lambda spec: spec['driver'])
def test_a_description_is_as_before_whatever_its_text(
  spec, prefix, monkeypatch
):
  monkeypatch.setattr(orbax_memory, '_PREFIX', prefix)
  assert tensorstore.KvStore.Spec(spec).to_json() == spec


def test_there_are_no_metrics():
  assert tensorstore.experimental_collect_matching_metrics('/tensorstore') == []

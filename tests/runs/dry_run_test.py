import json
import re

import jax
import pytest
import tiny

from sam_jax.runs import dry_run, experiment, preparation


@pytest.fixture(scope='module')
def outcome(tmp_path_factory):
  """The printed lines of a dry run and what it left in its directory."""
  directory = tmp_path_factory.mktemp('dry')
  printed = []
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr('builtins.print', lambda text, **_: printed.append(text))
    dry_run.run(
      tiny.config(**{'m': None, 'microbatch_size': None, 'parallel': 'pmap'}),
      directory / 'run',
    )
  return '\n'.join(printed), tiny.tree(directory)


def _value(text, name):
  (value,) = re.findall(f'^{name}: (.*)$', text, re.MULTILINE)
  return value


def test_it_writes_nothing(outcome):
  assert outcome[1] == {}


def test_it_prints_the_resolved_config(outcome):
  text = outcome[0]
  config, _ = json.JSONDecoder().raw_decode(text[text.index('{') :])
  assert config['sam'] == {
    'rho': 0.05,
    'm': 2,
    'p': 2.0,
    'ascent_steps': 1,
    'second_order': False,
  }
  assert config['microbatch_size'] == 2
  assert config['model']['features'] == [4]
  assert config['parallel'] == 'pmap'


def test_it_prints_layout_data_parameters_and_steps(outcome, tmp_path):
  text = outcome[0]
  assert '8 perturbation(s) of m = 2, 1 per device' in text
  assert _value(text, 'data') == ('digits, 80 training and 1,717 test examples')
  assert _value(text, 'steps') == '10 (5 per epoch)'
  result = tiny.train(tmp_path, num_steps=1)
  assert _value(text, 'parameters') == f'{result["parameters"]:,}'


def test_it_estimates_memory_and_time(outcome):
  text = outcome[0]
  assert re.fullmatch(
    r'[\d,]+ MiB per device', _value(text, 'memory of a step')
  )
  assert re.fullmatch(
    r'[\d.,]+ GFLOP per device', _value(text, 'arithmetic of a step')
  )
  assert re.match(r'\d+:\d\d:\d\d \(h:mm:ss', _value(text, 'estimated time'))


@pytest.fixture(scope='module')
def numbers():
  """Memory (MiB) and arithmetic (GFLOP) per device of 1600 examples."""
  # Large enough for the printed digits.
  fields = {
    'model.features': (64, 64),
    'model.hidden': 256,
    'data.train_size': 1600,
    'batch_size': 1600,
    'm': 200,
    'microbatch_size': 200,
  }
  variants = {
    'sam': {},
    'sgd': {'method.name': 'sgd'},
    'scan': {'microbatch_size': 25, 'microbatch_loop': 'scan'},
  }
  return {
    name: _describe(tiny.config(**fields | changes))
    for name, changes in variants.items()
  }


def _describe(config):
  described = dry_run.describe(config, experiment.build(config))
  return [
    float(described[name].split()[0].replace(',', ''))
    for name in ('memory of a step', 'arithmetic of a step')
  ]


def test_sam_costs_twice_the_arithmetic_of_sgd(numbers):
  # What the two gradients share is small here.
  assert 1.8 < numbers['sam'][1] / numbers['sgd'][1] < 2.1


def test_a_loop_over_microbatches_saves_memory_but_no_arithmetic(numbers):
  assert numbers['scan'][0] < 0.5 * numbers['sam'][0]
  # The optimizer is counted with every piece.
  assert 0.95 < numbers['scan'][1] / numbers['sam'][1] < 1.3


def test_it_describes_a_run_that_exists_and_leaves_it_alone(tmp_path, capsys):
  tiny.train(tmp_path, num_steps=1)
  before = tiny.tree(tmp_path)
  capsys.readouterr()
  dry_run.run(tiny.config(num_steps=1, parallel='pmap'), tmp_path)
  assert '4 perturbation(s) of m = 4' in capsys.readouterr().out
  with pytest.raises(ValueError, match='seed is 1, was 0'):
    dry_run.run(tiny.config(num_steps=1, seed=1), tmp_path)
  assert tiny.tree(tmp_path) == before


def test_it_makes_no_step(monkeypatch, tmp_path):
  monkeypatch.setattr(
    preparation, 'initial_state', lambda *args: pytest.fail('initialised')
  )
  dry_run.run(tiny.config(), tmp_path)
  assert jax.device_count() == 8

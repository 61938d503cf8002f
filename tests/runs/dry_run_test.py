import functools
import json
import re

import pytest

from sam_jax.runs import build, dry_run, initialization
from tests import tiny

SGD = {'method.name': 'sgd'}
UNSET = {'m': None, 'microbatch_size': None}


@pytest.fixture(scope='module')
def outcome(tmp_path_factory):
  """The printed lines of a dry run and what it left in its directory."""
  directory = tmp_path_factory.mktemp('dry')
  printed = []
  with pytest.MonkeyPatch.context() as patch:
    small = functools.partial(dry_run.matmul_rate, 64, warm_up=0.0)
    patch.setattr(dry_run, 'matmul_rate', small)
    patch.setattr('builtins.print', lambda text, **_: printed.append(text))
    dry_run.run(
      tiny.config(**tiny.PLAIN | UNSET | {'parallel': 'pmap'}),
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
  assert (config['method']['name'], config['m']) == ('sam', 2)
  assert config['microbatch_size'] == 2
  assert config['model']['features'] == [4]
  assert config['parallel'] == 'pmap'


def test_it_prints_layout_data_parameters_and_steps(outcome):
  text = outcome[0]
  assert '8 perturbations per step, each from m = 2 of the 16' in text
  assert _value(text, 'data') == ('digits, 80 training and 1,717 test examples')
  assert _value(text, 'steps') == '10 (5 per epoch)'
  parameters = (3 * 3 + 1) * 4 + (4 * 4 * 4 + 1) * 8 + (8 + 1) * 10
  assert _value(text, 'parameters') == f'{parameters:,}'


def test_it_says_that_it_compiles_and_is_done(outcome):
  lines = [line.split(':')[0] for line in outcome[0].splitlines()]
  place = lines.index('compiling')
  assert lines[place - 1] == 'steps'  # known before
  assert lines[place + 1] == 'compiled'
  assert lines[-1] == 'done; nothing was trained or written'


def test_it_estimates_memory_and_time(outcome):
  text = outcome[0]
  assert re.fullmatch(
    r'[\d,]+ MiB per device \(.*activations and copies [\d,]+\)',
    _value(text, 'memory of a step'),
  )
  assert re.fullmatch(
    r'[\d.,]+ GFLOP per device', _value(text, 'arithmetic of a step')
  )
  assert re.match(r'\d+:\d\d:\d\d \(h:mm:ss', _value(text, 'estimated time'))


@pytest.mark.slow
def test_a_loop_over_microbatches_saves_memory_but_no_arithmetic(monkeypatch):
  """And arithmetic is counted in every turn of the loop."""
  tiny.use_devices(monkeypatch, 1)
  # Large enough for the printed digits.
  fields = tiny.PLAIN | {
    'method.name': 'sgd',
    'model.features': (16,),
    'data.train_size': 400,
    'batch_size': 400,
    'm': 400,
  }
  whole, loop = (
    _numbers(tiny.config(**fields | changes))
    for changes in (
      {'microbatch_size': 400},
      {'microbatch_size': 50, 'microbatch_loop': 'scan'},
    )
  )
  assert loop[0] < 0.5 * whole[0]
  # The optimizer is counted with every piece.
  assert 0.95 < loop[1] / whole[1] < 1.3


def _numbers(config):
  """Returns memory (MiB) and arithmetic (GFLOP) per device."""
  described = dict(dry_run.describe(config, build.build(config)))
  return [
    float(described[name].split()[0].replace(',', ''))
    for name in ('memory of a step', 'arithmetic of a step')
  ]


@pytest.mark.slow
def test_it_describes_a_run_that_exists_and_leaves_it_alone(
  monkeypatch, tmp_path, capsys
):
  tiny.use_devices(monkeypatch, 1)
  tiny.train(tmp_path, **tiny.PLAIN, **SGD, num_steps=1)
  before = tiny.tree(tmp_path)
  capsys.readouterr()
  monkeypatch.setattr(
    initialization, 'init_variables', lambda *_: pytest.fail('initialised')
  )
  changed = SGD | {'parallel': 'pmap', 'num_steps': 1}
  dry_run.run(tiny.config(**tiny.PLAIN, **changed), tmp_path)
  assert 'one perturbation per step from all 16' in capsys.readouterr().out
  with pytest.raises(ValueError, match='seed is 1, was 0'):
    dry_run.run(tiny.config(**tiny.PLAIN, **changed, seed=1), tmp_path)
  assert tiny.tree(tmp_path) == before


# --- Without data ------------------------------------------------------------


def _without_data(monkeypatch, capsys, tmp_path, **fields):
  """What is printed where no data are, and nothing is compiled."""
  tiny.use_devices(monkeypatch, 1)
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'nothing'))
  monkeypatch.setattr(dry_run, '_compile', lambda *_: None)
  monkeypatch.setattr(dry_run, 'matmul_rate', lambda **_: 1e9)
  monkeypatch.setattr(dry_run, 'peak_bytes', lambda _: 0)
  monkeypatch.setattr(dry_run, 'count_flops', lambda *_: 1e9)
  config = tiny.config(**tiny.PLAIN | {'data.train_size': None} | fields)
  try:
    dry_run.run(config, tmp_path / 'run')
  finally:
    captured = capsys.readouterr()
    assert not (tmp_path / 'run').exists()
  return captured.out, captured.err


@pytest.mark.parametrize(
  ('fields', 'data', 'steps'),
  [
    (
      {'data.name': 'cifar100'},
      'cifar100, 50,000 training and 10,000 test examples',
      '6,250 (3,125 per epoch)',
    ),
    (
      {'data.name': 'imagenet2012', 'data.split': 'validation'},
      'imagenet2012, 1,153,051 training and 128,116 validation examples',
      '144,130 (72,065 per epoch)',
    ),
  ],
)
def test_a_known_size_is_enough(
  monkeypatch, capsys, tmp_path, fields, data, steps
):
  out, err = _without_data(monkeypatch, capsys, tmp_path, **fields)
  assert _value(out, 'data') == f'{data} (as published; the data are not there)'
  assert _value(out, 'steps') == steps
  assert out.splitlines()[-1].startswith('done')
  assert err.startswith(f'warning: the run needs its data: {data[:8]}')
  assert err.count('\n') == 1


def test_a_text_of_unknown_length_has_a_model(monkeypatch, capsys, tmp_path):
  fields = {
    'task.name': 'language_modelling',
    'model.name': 'gpt',
    **{'model.width': 8, 'model.depth': 1, 'model.heads': 1},
    **dict.fromkeys(('model.features', 'model.hidden', 'model.norm')),
    'model.activation': None,
    'data.name': 'tokens',
    'data.context_length': 4,
    'data.vocabulary_size': 50,
  }
  out, err = _without_data(monkeypatch, capsys, tmp_path, **fields)
  assert _value(out, 'data') == 'tokens, which is not there'
  assert int(_value(out, 'parameters').replace(',', '')) > 50 * 8
  assert _value(out, 'steps') == 'unknown (unknown per epoch)'
  assert 'estimated time' not in out
  assert 'needs data.directory' in err
  out, _ = _without_data(
    monkeypatch, capsys, tmp_path, **fields, num_steps=1000
  )
  assert _value(out, 'steps') == '1,000 (unknown per epoch)'


def test_without_data_and_sizes_config_and_layout_are_known(
  monkeypatch, capsys, tmp_path
):
  fields = {'data.name': 'image_folder', 'data.directory': str(tmp_path)}
  with pytest.raises(
    FileNotFoundError, match='nothing more is known.*no folder'
  ):
    _without_data(monkeypatch, capsys, tmp_path, **fields)


def test_a_run_that_exists_is_not_looked_at_without_its_data(
  monkeypatch, capsys, tmp_path
):
  def prepare(config, workdir):
    raise FileNotFoundError('the data are gone')

  monkeypatch.setattr(dry_run.workdir_lib, 'has_begun', lambda _: True)
  monkeypatch.setattr(dry_run.preparation, 'prepare', prepare)
  with pytest.raises(FileNotFoundError, match='the data are gone'):
    _without_data(monkeypatch, capsys, tmp_path, **{'data.name': 'cifar10'})

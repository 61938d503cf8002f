"""The training command: what it accepts, refuses, prints and returns."""

import itertools
import re
import shutil
import signal
import sys

import pytest

from sam_jax import datasets
from tests import tiny

# For the eight devices of the tests.
FITTING = (
  '--config.batch_size=96',
  '--config.m=12',
  '--config.microbatch_size=12',
)

# What is typed after these and --config=digits, and what is answered. {tmp} is
# a directory that holds a file and an empty directory. That the factories
# refuse their own options is tested where they are.
BAD = (
  ('--config.method.rh=0.1', "no field 'method.rh' .did you mean 'method.rho'"),
  ('--config.optimiser.name=sgd', "did you mean 'optimizer.name'"),
  ('--config.qqqq=1', "no field 'qqqq'; configs/default.py lists"),
  ('--config.seed=abc', 'seed'),
  ('--config.seed=None', 'seed may not be None; its default is 0'),
  ('--config.model.features=(4,', 'features'),
  ('--config.model.name=lenet', "unknown model 'lenet'.*cnn"),
  ('--config.method.rho=-0.1', 'rho is -0.1'),
  (
    '--config.method.name=sam_on --config.model.norm=none',
    'no parameter is the scale or the bias of a normalisation layer; .*kernel',
  ),
  ('--config.m=30', 'm 30 does not divide batch_size 96'),
  ('--config.batch_size=100', '100 is not divisible by 8 devices'),
  ('--config.data.directory={tmp}/empty', 'must be None'),
  (
    '--config.batch_size=9600',
    r'batch_size is 9600 but there are only \d+ training examples',
  ),
  ('--workdir={tmp}/file/below', 'cannot write to the run directory'),
  ('--workdir=gs://bucket/run', 'is not a path on this machine'),
  ('--workdir={tmp}/[run]', r'cannot be kept in .*\[run\]'),
  ('--workdir=/', 'is the root of the file system'),
  ('--workdir=', "'' is not a path on this machine"),
  ('--config.init_from=s3://bucket/run', 'is not a path on this machine'),
  ('--config.init_from={tmp}/empty', 'no run directory'),
  ('--config.plugins=no_such_module', "plugins names 'no_such_module'"),
  ('extra', 'unknown arguments: extra'),
  ('--config.m 12 extra', 'unknown arguments: extra'),
  ('--wrokdir=a', 'unknown flag --wrokdir; did you mean --workdir'),
  ('--num_processes=2', 'belong together'),
  ('--profile=0', 'steps to profile is 0; it must be at least 1'),
  ('--config={tmp}/missing.py', r'missing.py.* does not exist.*cifar10'),
  ('--config=digist', "unknown config 'digist'.* .did you mean 'digits'"),
  ('--config=digits:loud', "digits.py:loud: .* 'loud' is unknown"),
  ('--config={tmp}/fault.py', 'fault.py: ZeroDivisionError: '),
)


@pytest.fixture
def tmp(tmp_path):
  """The directory {tmp} of the table."""
  (tmp_path / 'file').touch()
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'fault.py').write_text('def get_config():\n  return 1 / 0\n')
  return tmp_path


@pytest.mark.parametrize(('typed', 'answer'), BAD, ids=lambda x: x[:40])
def test_bad_input_is_one_line_status_2_and_nothing_written(
  command, tmp, typed, answer
):
  before = tiny.tree(tmp)
  status, out, err = command(
    'train',
    '--config=digits',
    f'--workdir={tmp}/run',
    *FITTING,
    *typed.replace('{tmp}', str(tmp)).split(' '),
  )
  assert status == 2
  assert re.fullmatch(f'train: .*{answer}.*\n', err), err
  assert out == ''
  assert tiny.tree(tmp) == before


@pytest.mark.parametrize(
  ('arguments', 'answer'), [((), '--config.*--workdir'), (('-h',), None)]
)
def test_help_needs_no_flag_that_a_run_needs(command, arguments, answer):
  status, out, err = command('train', *arguments)
  if answer:
    assert status == 2 and re.fullmatch(f'train: .*{answer}.*\n', err)
  else:
    assert (status, err) == (0, '')
    # Line breaks and indentation are those of the docstring.
    assert '\n    python -m sam_jax.train --config=cifar10 --workdir=' in out
    assert '--[no]dry_run: ' in out


def test_a_dry_run_prints_what_would_run_and_writes_nothing(command, tmp_path):
  path = tiny.config_file(tmp_path)
  status, out, err = command(
    'train',
    f'--config={path}',
    f'--workdir={tmp_path}/run',
    '--config.m=None',
    '--dry_run',
    '--profile=3',
  )
  assert status == 0, err
  assert 'a dry run makes no steps that --profile could trace' in err
  # 16 examples on 8 devices.
  assert '"m": 2,' in out and 'estimated time' in out
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('module', ['orbax', 'xxhash'])
def test_a_library_of_checkpoints_that_is_missing_is_one_line_at_once(
  monkeypatch, command, tmp_path, module
):
  monkeypatch.setitem(sys.modules, module, None)
  monkeypatch.delitem(sys.modules, 'orbax.checkpoint', raising=False)
  path = tiny.config_file(tmp_path)
  before = tiny.tree(tmp_path)
  status, _, err = command(
    'train', f'--config={path}', f'--workdir={tmp_path}/run'
  )
  advice = "is not installed; install it with: pip install 'sam_jax[train]'"
  assert (status, err) == (2, f'train: {module} {advice}\n')
  assert tiny.tree(tmp_path) == before


PLUGIN = """
from sam_jax import methods, models

@methods.register('plain')
def plain(rho=0.05):
  return methods.sam(rho)

@models.register('halves')
def halves(num_classes, strength=1.0, **cnn):
  if strength == 13:
    raise ValueError('strength is 13; choose a lucky number')
  return models.create('cnn', num_classes=num_classes, **cnn)

@models.register('strict_halves')
def strict(num_classes, strength=1.0):
  return halves(num_classes, strength)
"""


@pytest.mark.parametrize(
  ('name', 'field', 'answer'),
  [
    ('halves', 'strength=13', 'strength is 13'),
    ('strict_halves', 'strength=13', 'strength is 13'),
    (
      'strict_halves',
      'strenght=3',
      r"no field 'model.strenght' \(did you mean 'model.strength'\?\); model "
      "'strict_halves' takes strength;",
    ),
    ('cnn', 'strength=3', "no field 'model.strength'.*; model 'cnn' takes "),
  ],
)
def test_a_field_of_a_plugin_reaches_it_and_nothing_else(
  command, monkeypatch, tmp_path, name, field, answer
):
  (tmp_path / 'halves_plugin.py').write_text(PLUGIN)
  monkeypatch.syspath_prepend(tmp_path)
  status, _, err = command(
    'train',
    '--config=digits',
    f'--workdir={tmp_path}/run',
    "--config.plugins=('halves_plugin',)",
    f'--config.model.name={name}',
    f'--config.model.{field}',
    '--config.model.activation=None',
    *FITTING,
  )
  assert status == 2
  assert re.fullmatch(f'train: .*{answer}.*\n', err), err


@pytest.mark.parametrize(
  ('name', 'plugins', 'said'),
  [
    (
      'asam',
      (),
      'train: method.rho=0.7 of the config file is meant for sam; asam',
    ),
    # Its default is known if the plug-in was imported before, not here.
    ('plain', ('halves_plugin',), ''),
  ],
)
def test_the_radius_of_a_config_is_told_if_another_method_takes_it(
  command, monkeypatch, tmp_path, name, plugins, said
):
  (tmp_path / 'halves_plugin.py').write_text(PLUGIN)
  monkeypatch.syspath_prepend(tmp_path)
  status, out, err = command(
    'train',
    '--config=digits:noisy',
    f'--workdir={tmp_path}/run',
    f'--config.plugins={plugins}',
    f'--config.method.name={name}',
    '--dry_run',
    *FITTING,
  )
  assert status == 0 and '"m":' in out, err
  assert err.startswith(said)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """Config file and run directory of a run of four steps."""
  directory = tmp_path_factory.mktemp('finished')
  path = tiny.config_file(directory, num_steps=4)
  tiny.train(directory / 'run', num_steps=4)
  return path, directory / 'run'


def test_the_workdir_of_another_config_is_refused(command, finished):
  path, run = finished
  before = tiny.tree(run)
  status, _, err = command(
    'train',
    f'--config={path}',
    f'--workdir={run}',
    '--config.method.rho=0.2',
    '--config.seed=3',
  )
  assert status == 2
  assert 'method.rho is 0.2, was 0.05; seed is 3, was 0' in err
  assert err.count('\n') == 1
  assert tiny.tree(run) == before


def test_a_finished_run_says_so_and_is_left_alone(command, finished):
  path, run = finished
  before = tiny.tree(run)
  status, out, err = command(
    'train',
    f'--config={path}',
    f'--workdir={run}',
    '--config.log.every_steps=5',
  )
  assert (status, err) == (0, '')
  assert re.fullmatch(r'.*run is finished: test error .*4 steps in .*\n', out)
  assert tiny.tree(run) == before


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_status_1(command, finished, tmp_path):
  path, _ = finished
  status, _, err = command(
    'train',
    f'--config={path}',
    f'--workdir={tmp_path}',
    '--config.learning_rate=1e30',
  )
  assert status == 1
  assert re.fullmatch(r'train: step [12]: .*not finite.*\n', err)


def test_a_signal_is_its_status_and_the_same_command_resumes(
  command, finished, monkeypatch, tmp_path
):
  path, whole = finished
  arguments = ('train', f'--config={path}', f'--workdir={tmp_path}/run')
  train_batches = datasets.train_batches

  def stop_early(*args, **kwargs):
    batches = train_batches(*args, **kwargs)
    yield next(batches)
    signal.raise_signal(signal.SIGTERM)
    yield from batches

  # Without a handler of the run's, the signal would end the tests.
  before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
  with monkeypatch.context() as patched:
    patched.setattr(datasets, 'train_batches', stop_early)
    status, _, err = command(*arguments)
  signal.signal(signal.SIGTERM, before)
  assert status == 128 + signal.SIGTERM
  stopped = re.fullmatch(r'train: stopped at step ([123]) by SIGTERM.*\n', err)
  assert stopped, err
  status, out, err = command(*arguments)
  assert (status, err) == (0, '')
  assert f'4 steps, of which {stopped[1]} were made before' in out
  assert out.splitlines()[-1].startswith('finished: test error ')
  tiny.assert_same_run(tmp_path / 'run', whole)


@pytest.mark.parametrize(
  ('error', 'answer'),
  [
    (SystemExit(0), r'sys.exit\(0\) was called \(.*train_test.py, line .*\)'),
    (ValueError('odd'), r'ValueError: odd \(.*train_test.py, line .*\)'),
  ],
  ids=lambda x: type(x).__name__,
)
def test_what_a_plugin_raises_is_one_line_with_the_last_good_step(
  command, finished, monkeypatch, tmp_path, error, answer
):
  path, _ = finished
  train_batches = datasets.train_batches

  def fail(*args, **kwargs):
    batches = train_batches(*args, **kwargs)
    yield from itertools.islice(batches, 3)
    raise error

  monkeypatch.setattr(datasets, 'train_batches', fail)
  status, _, err = command(
    'train',
    f'--config={path}',
    f'--workdir={tmp_path}/run',
    '--config.checkpoint.every_steps=2',
  )
  assert status == 1
  resumes = 'the same command resumes from the checkpoint of step 2'
  assert re.fullmatch(f'train: {answer}; {resumes}\n', err), err
  assert not list((tmp_path / 'run').glob('.lock*'))


def test_a_removed_run_directory_is_one_line(
  command, finished, monkeypatch, tmp_path
):
  path, _ = finished
  train_batches = datasets.train_batches

  def remove(*args, **kwargs):
    batches = train_batches(*args, **kwargs)
    yield from itertools.islice(batches, 3)
    # At once: between the files, one by one, there is a run that is damaged.
    (tmp_path / 'run').rename(tmp_path / 'gone')
    shutil.rmtree(tmp_path / 'gone')
    yield from batches

  monkeypatch.setattr(datasets, 'train_batches', remove)
  status, _, err = command(
    'train', f'--config={path}', f'--workdir={tmp_path}/run'
  )
  assert status == 1
  # What fails is what the checkpoint, or the log, does just then.
  answer = 'the run directory .*/run was removed while the run was going'
  assert re.fullmatch(f'train: .*; {answer}\n', err), err
  assert not (tmp_path / 'run' / 'metrics.jsonl').exists()


def test_a_directory_in_the_home_can_be_named_by_its_tilde(
  command, finished, monkeypatch, tmp_path
):
  path, run = finished
  monkeypatch.setenv('HOME', str(run.parent))
  monkeypatch.chdir(tmp_path)
  status, out, _ = command('train', f'--config={path}', '--workdir=~/run')
  assert status == 0 and 'run is finished' in out
  assert not list(tmp_path.iterdir())

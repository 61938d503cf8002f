"""The command line: in this process where it can be, else in its own."""

import json
import os
import pathlib
import pty
import random
import re
import signal
import subprocess
import sys
import termios
import time

import jax
import numpy as np
import pytest
import tiny
from absl import flags

from sam_jax import train
from sam_jax.runs import metrics_log

DIGITS = 'configs/digits.py'
# One program for runs of any length, with few pieces: it compiles once.
QUICK = {'schedule.name': 'constant', 'microbatch_size': 4}

# How ml_collections loads a config file on Python 3.11.
pytestmark = pytest.mark.filterwarnings(
  r'ignore:the load_module\(\) method is deprecated:DeprecationWarning'
)


@pytest.fixture
def main(monkeypatch, capsys):
  """Runs the command line in this process; returns status, stdout, stderr."""
  verbosity = train.logging.get_verbosity()
  cache = jax.config.jax_persistent_cache_min_compile_time_secs
  monkeypatch.chdir(tiny.ROOT)

  def run(*arguments):
    argv = ['train', *map(str, arguments)]
    monkeypatch.setattr(sys, 'argv', argv)
    capsys.readouterr()
    try:
      train.main(train.parse_flags(argv))
      status = 0
    except SystemExit as stop:
      status = stop.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err

  yield run
  for name in list(flags.FLAGS):
    if name.startswith('config.'):
      delattr(flags.FLAGS, name)
  flags.FLAGS.unparse_flags()
  train.logging.set_verbosity(verbosity)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', cache)


def _idx_directory(directory, *, label=0, cut=0):
  """Writes a tiny data set as IDX files; returns the directory."""
  directory.mkdir()
  for split, count in (('train', 16), ('t10k', 8)):
    header = bytes([0, 0, 8, 3]) + np.array([count, 28, 28], '>u4').tobytes()
    images = header + bytes(count * 784)
    if split == 'train':
      images = images[: len(images) - cut]
    (directory / f'{split}-images-idx3-ubyte').write_bytes(images)
    header = bytes([0, 0, 8, 1]) + np.array([count], '>u4').tobytes()
    (directory / f'{split}-labels-idx1-ubyte').write_bytes(
      header + bytes([label] * count)
    )
  return directory


# For the eight devices of the tests.
FITTING = (
  '--config.batch_size=96',
  '--config.m=12',
  '--config.microbatch_size=12',
)

# What is typed after these and --config=configs/digits.py, and what is
# answered. {tmp} is a directory that holds a file, IDX files that are cut off,
# IDX files with a label 10, a class that is a link to itself, and an empty
# directory.
BAD = (
  ('--config.sam.rh=0.1', "no field 'rh'; did you mean 'rho'"),
  ('--config.optimiser.name=sgd', "no field 'optimiser'; .* 'optimizer'"),
  ('--config.qqqq=1', "no field 'qqqq'; configs/default.py lists"),
  ('--config.seed=abc', 'seed'),
  ('--config.seed=1.5', 'seed'),
  ('--config.method.rho=big', 'rho'),
  ('--config.method.rho=-0.1', 'rho is -0.1'),
  ('--config.model.name=lenet', "unknown model 'lenet'.*cnn"),
  ('--config.data.name=mnist', "unknown data set 'mnist'.*digits"),
  ('--config.method.name=sa', "unknown method 'sa'.*sam.*sgd"),
  ('--config.schedule.name=step', "unknown schedule 'step'.*cosine"),
  ('--config.optimizer.name=sdg', "unknown optimizer 'sdg'"),
  ('--config.augmentation.name=mixup', "unknown augmentation 'mixup'.*basic"),
  ('--config.m=30', 'm 30 does not divide batch_size 96'),
  ('--config.batch_size=100', '100 is not divisible by 8 devices'),
  (
    '--config.m=96 --config.microbatch_size=96',
    'no multiple of microbatch_size 96',
  ),
  ('--config.data.directory={tmp}/empty', 'must be None'),
  (
    '--config.data.name=cifar10 --config.data.directory={tmp}/empty',
    'prepare_data.py cifar10.*cifar-10-batches-bin',
  ),
  (
    '--config.data.name=fashion_mnist --config.data.directory={tmp}/empty',
    'apt-get install dataset-fashion-mnist',
  ),
  (
    '--config.data.name=fashion_mnist --config.data.directory={tmp}/cut',
    r'train-images-idx3-ubyte is damaged: got 12555 bytes, expected 12560',
  ),
  (
    '--config.data.name=fashion_mnist --config.data.directory={tmp}/label',
    r'label 10 of example 0 is out of range \[0, 10\)',
  ),
  (
    '--config.data.name=image_folder --config.data.directory={tmp}/link',
    'Too many levels of symbolic links.*red',
  ),
  (
    '--config.batch_size=9600',
    r'batch_size is 9600 but there are only \d+ training examples',
  ),
  ('--workdir={tmp}/file/below', 'cannot write to workdir.*--workdir'),
  ('--workdir={tmp}/' + 'x' * 300, 'workdir'),
  ('--config.init_from={tmp}/empty', 'no run directory'),
  ('--config.plugins=no_such_module', "plugins names 'no_such_module'"),
  ('extra', 'unknown arguments: extra'),
  ('--wrokdir=a', 'wrokdir'),
  ('--config={tmp}/missing.py', 'No such file.*missing.py'),
  ('--config=configs/digits.py:loud', 'digits.py:loud is unknown'),
)


@pytest.fixture
def tmp(tmp_path):
  """The directory {tmp} of the table."""
  (tmp_path / 'file').touch()
  (tmp_path / 'empty').mkdir()
  _idx_directory(tmp_path / 'cut', cut=5)
  _idx_directory(tmp_path / 'label', label=10)
  (tmp_path / 'link' / 'train').mkdir(parents=True)
  (tmp_path / 'link' / 'train' / 'red').symlink_to('red')
  return tmp_path


@pytest.mark.parametrize(('typed', 'answer'), BAD, ids=lambda x: x[:40])
def test_bad_input_is_one_line_status_2_and_nothing_written(
  main, tmp, typed, answer
):
  before = tiny.tree(tmp)
  status, out, err = main(
    f'--config={DIGITS}',
    f'--workdir={tmp}/run',
    *FITTING,
    *typed.replace('{tmp}', str(tmp)).split(' '),
  )
  assert status == 2
  assert re.fullmatch(f'sam_jax: .*{answer}.*\n', err), err
  assert out == ''
  assert tiny.tree(tmp) == before


@pytest.mark.parametrize(
  ('typed', 'answer'),
  [('--config.method.rho=-0.1', 'rho is -0.1'), ('--config.m=5', 'm 5 does')],
)
def test_a_dry_run_refuses_what_a_run_refuses(main, tmp_path, typed, answer):
  status, out, err = main(
    f'--config={DIGITS}',
    f'--workdir={tmp_path}/run',
    '--dry_run',
    *FITTING,
    typed,
  )
  assert status == 2
  assert re.fullmatch(f'sam_jax: .*{answer}.*\n', err), err
  assert out == ''


def test_labels_out_of_range_of_ones_own_data_are_one_line(
  main, monkeypatch, tmp_path
):
  (tmp_path / 'bad_labels_plugin.py').write_text(
    'import numpy as np\n'
    'from sam_jax import datasets\n'
    "@datasets.register('bad_labels')\n"
    'def load(directory, seed):\n'
    '  images = np.zeros((8, 8, 8, 1), np.uint8)\n'
    '  examples = datasets.Examples(images, np.arange(8, dtype=np.int32))\n'
    '  return datasets.Source(examples, examples, 5, (0.5,), (0.5,))\n'
  )
  monkeypatch.syspath_prepend(tmp_path)
  before = tiny.tree(tmp_path)
  status, _, err = main(
    f'--config={DIGITS}',
    f'--workdir={tmp_path}/run',
    '--config.plugins=bad_labels_plugin',
    '--config.data.name=bad_labels',
    '--config.batch_size=8',
    '--config.m=8',
    '--config.microbatch_size=1',
  )
  assert status == 2
  assert 'label 5 of example 5 is out of range [0, 5)' in err
  assert err.count('\n') == 1
  assert not (tmp_path / 'run').exists()
  assert before.keys() <= tiny.tree(tmp_path).keys()


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """Config file and run directory of a run of two steps."""
  directory = tmp_path_factory.mktemp('finished')
  path = tiny.config_file(directory, num_steps=2)
  tiny.train(directory / 'run', num_steps=2)
  return path, directory / 'run'


def test_the_workdir_of_another_config_is_refused(main, finished):
  path, run = finished
  before = tiny.tree(run)
  status, _, err = main(
    f'--config={path}',
    f'--workdir={run}',
    '--config.method.rho=0.2',
    '--config.seed=3',
  )
  assert status == 2
  assert 'method.rho is 0.2, was 0.05; seed is 3, was 0' in err
  assert err.count('\n') == 1
  assert tiny.tree(run) == before


def test_a_finished_run_says_so_and_is_left_alone(main, finished):
  path, run = finished
  before = tiny.tree(run)
  status, out, err = main(f'--config={path}', f'--workdir={run}')
  assert (status, err) == (0, '')
  assert re.fullmatch(r'.*run is finished: test error .*2 steps in .*\n', out)
  assert tiny.tree(run) == before


def test_operational_fields_of_a_finished_run_may_differ(main, finished):
  path, run = finished
  status, out, _ = main(
    f'--config={path}', f'--workdir={run}', '--config.log.every_steps=5'
  )
  assert status == 0
  assert 'is finished' in out


def test_a_loss_that_is_not_finite_is_status_1(main, finished, tmp_path):
  path, _ = finished
  status, _, err = main(
    f'--config={path}', f'--workdir={tmp_path}', '--config.learning_rate=1e30'
  )
  assert status == 1
  assert re.fullmatch(r'sam_jax: step [12]: .*not finite.*\n', err)


# --- In a process of its own -------------------------------------------------


def test_a_signal_saves_and_the_same_command_goes_on_with_more_devices(
  tmp_path,
):
  """SIGTERM on one device, SIGINT on four."""
  fields = {'num_epochs': 40, 'checkpoint.every_steps': None}
  path = tiny.config_file(tmp_path, **QUICK, **fields)
  arguments = (f'--config={path}', f'--workdir={tmp_path}/run')
  for signum, num_devices in ((signal.SIGTERM, 1), (signal.SIGINT, 4)):
    made = tiny.steps(tmp_path / 'run')[-1:] or [0]
    process = _start(*arguments, num_devices=num_devices)
    _wait_for_step(tmp_path / 'run', made[0] + 7)
    process.send_signal(signum)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 128 + signum
    step = tiny.steps(tmp_path / 'run')[-1]
    assert step >= made[0] + 7
    assert f'sam_jax: stopped at step {step} by {signum.name}' in err
    assert 'Traceback' not in err
  done = tiny.cli(*arguments, num_devices=4)
  assert done.returncode == 0, done.stderr
  assert f'200 steps of which {step} are made' in done.stdout
  steps = [
    x['step'] for x in metrics_log.read(tmp_path / 'run') if 'step/loss' in x
  ]
  assert steps == list(range(1, 201))


def _start(*arguments, num_devices=1, **options):
  """Starts the command line."""
  return subprocess.Popen(
    tiny.command(*arguments),
    cwd=tiny.ROOT,
    env=tiny.environment(num_devices),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    **options,
  )


def _wait_for_step(run, step, seconds=240):
  """Waits until a step is logged."""
  end = time.monotonic() + seconds
  while time.monotonic() < end:
    if (run / 'metrics.jsonl').exists():
      if any(line['step'] >= step for line in metrics_log.read(run)):
        return
    time.sleep(0.01)
  pytest.fail(f'step {step} was not made within {seconds} seconds')


_SLOW_TO_SAVE = """
import time
from sam_jax import checkpoints

def save(self, *args):
  print('saving', flush=True)
  time.sleep(600)

checkpoints.Checkpoints.save = save
"""


def test_a_second_signal_stops_at_once(monkeypatch, tmp_path):
  (tmp_path / 'slow_to_save.py').write_text(_SLOW_TO_SAVE)
  monkeypatch.setenv('PYTHONPATH', str(tmp_path))
  path = tiny.config_file(
    tmp_path,
    **QUICK,
    **{
      'num_epochs': 10_000,
      'checkpoint.every_steps': None,
      'checkpoint.every_epochs': 0,
      'checkpoint.keep_best': False,
      'plugins': ('slow_to_save',),
    },
  )
  process = _start(f'--config={path}', f'--workdir={tmp_path}/run')
  _wait_for_step(tmp_path / 'run', 2)
  process.send_signal(signal.SIGINT)
  while process.stdout.readline() != 'saving\n':
    assert process.poll() is None
  process.send_signal(signal.SIGINT)
  process.communicate(timeout=240)  # less than saving takes
  assert process.returncode == -signal.SIGINT


def _kill_after(process, run, seconds):
  """Kills a run that many seconds after its first step; returns its step.

  None if it has ended before.
  """
  log = run / 'metrics.jsonl'
  cut = None  # its size once the lines that are to be made again are cut
  start = time.time_ns()
  while process.poll() is None:
    time.sleep(0.005)
    if not log.exists() or log.stat().st_mtime_ns < start:
      continue
    cut = log.stat().st_size if cut is None else cut
    if log.stat().st_size > cut:
      break
  time.sleep(seconds)
  has_ended = process.poll() is not None
  process.kill()
  process.communicate()  # closes the pipes of one that has ended, too
  return None if has_ended else (tiny.steps(run)[-1:] or [0])[0]


@pytest.mark.slow
def test_sigkill_at_random_moments_changes_nothing(tmp_path):
  fields = {'num_epochs': 20, 'log.tensorboard': True}
  path = tiny.config_file(tmp_path, **QUICK, **fields)
  command = (f'--config={path}', f'--workdir={tmp_path}/killed')
  rng = random.Random(0)
  killed_at = []
  while None not in killed_at and len(killed_at) < 5:
    moment = rng.uniform(0, 1)
    killed_at.append(_kill_after(_start(*command), tmp_path / 'killed', moment))
  assert len({step for step in killed_at if step}) >= 2, killed_at
  for name in ('killed', 'whole'):
    done = tiny.cli(f'--config={path}', f'--workdir={tmp_path / name}')
    assert done.returncode == 0, done.stderr
  tiny.assert_same_run(tmp_path / 'killed', tmp_path / 'whole')
  steps = [
    x['step'] for x in metrics_log.read(tmp_path / 'killed') if 'step/loss' in x
  ]
  assert steps == list(range(1, 101))


def test_a_terminal_gets_a_bar(tmp_path):
  path = tiny.config_file(tmp_path, **QUICK)
  master, slave = pty.openpty()
  termios.tcsetwinsize(slave, (24, 150))
  process = subprocess.Popen(
    tiny.command(f'--config={path}', f'--workdir={tmp_path}/run'),
    cwd=tiny.ROOT,
    env=tiny.environment(1) | {'COLUMNS': '120'},
    stdout=slave,
    stderr=slave,
  )
  os.close(slave)
  shown = _read_all(master)
  assert process.wait(timeout=240) == 0, shown
  assert re.search(r'100%.*10/10 \[.*loss \d\.\d+, error \d+\.\d+%', shown)
  assert 'images/s' in shown
  assert re.search(r'finished: test error', shown)


def _read_all(descriptor):
  """Reads a terminal to its end, which is an error on Linux."""
  parts = []
  while True:
    try:
      part = os.read(descriptor, 4096)
    except OSError:
      part = b''
    if not part:
      os.close(descriptor)
      return b''.join(parts).decode()
    parts.append(part)


def test_the_command_of_the_readme_trains_the_digits(tmp_path):
  done = tiny.cli(
    f'--config={DIGITS}',
    f'--workdir={tmp_path}/run',
    '--config.num_epochs=2',
    '--config.deterministic=True',
  )
  assert done.returncode == 0, done.stderr
  assert done.stderr == ''
  assert done.stdout.splitlines()[-1].startswith('finished: test error ')
  files = {
    p.name.split('.')[0] for p in pathlib.Path(tmp_path / 'run').iterdir()
  }
  assert files == {'config', 'metrics', 'result', 'checkpoints', 'events'}
  result = json.loads((tmp_path / 'run' / 'result.json').read_text())
  # Two epochs are enough to be far from chance (90 %).
  assert result['final_error_rate'] < 0.5


@pytest.mark.parametrize(
  ('arguments', 'answer'),
  [
    ((), '--config|--workdir'),
    (('--workdir=a',), '--config'),
    ((f'--config={DIGITS}',), '--workdir'),
    ((f'--config={DIGITS}', '--workdir={tmp}', 'extra'), 'extra'),
    (('--config=missing.py', '--workdir={tmp}'), 'missing.py'),
  ],
)
def test_a_command_that_lacks_or_has_too_much_is_one_line(
  tmp_path, arguments, answer
):
  done = tiny.cli(*[a.replace('{tmp}', str(tmp_path)) for a in arguments])
  assert done.returncode == 2
  assert re.fullmatch(f'sam_jax: .*({answer}).*\n', done.stderr), done.stderr
  assert tiny.tree(tmp_path) == {}

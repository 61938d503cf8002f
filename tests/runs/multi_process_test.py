"""Two processes with two devices each train as one with four does."""

import re
import signal
import socket
import subprocess
import time

import jax
import numpy as np
import pytest
import tiny

from sam_jax.training import parallel
from tests import pictures

_STEPS = 45


@pytest.fixture(scope='module')
def config(tmp_path_factory):
  """A config file for 40 + 13 images in files, 5 steps an epoch."""
  root = tmp_path_factory.mktemp('multi')
  sizes = {'train': 10, 'test': 3}
  pictures.folder(root / 'data', sizes, height=12, width=12)
  return tiny.config_file(root, **_fields(root / 'data'))


def _fields(data):
  """What the config of such a folder has."""
  return {
    'data.name': 'image_folder',
    'data.directory': str(data),
    'data.image_size': 8,
    'data.train_size': None,
    'augmentation.padding': 1,
    'batch_size': 8,
    'm': 4,
    'microbatch_size': 2,
    'num_steps': _STEPS,
    'eval_batch_size': 8,
    'checkpoint.every_steps': 20,
    'checkpoint.max_to_keep': 9,
  }


def _start(config, workdir, *rest):
  """Starts both processes."""
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    port = probe.getsockname()[1]
  return [
    subprocess.Popen(
      tiny.command(
        f'--config={config}',
        f'--workdir={workdir}',
        f'--coordinator=localhost:{port}',
        '--num_processes=2',
        f'--process_id={i}',
        *rest,
      ),
      cwd=tiny.ROOT,
      env=tiny.environment(2),
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for i in range(2)
  ]


def _end(processes, timeout=300):
  """Returns the exit statuses and what was printed."""
  try:
    outputs = [p.communicate(timeout=timeout)[0] for p in processes]
  finally:
    for process in processes:
      process.kill()  # nothing, once it has ended
      process.wait()
      process.stdout.close()
  return [process.returncode for process in processes], outputs


@pytest.fixture(scope='module')
def whole(config, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('whole')
  done = tiny.cli(f'--config={config}', f'--workdir={workdir}', num_devices=4)
  assert done.returncode == 0, done.stderr
  return workdir


def _assert_same_run(workdir, expected):
  """The same lines and weights up to rounding."""
  lines, others = tiny.log(workdir), tiny.log(expected)
  assert len(lines) == len(others)
  for line, other in zip(lines, others, strict=True):
    assert line == pytest.approx(other, abs=1e-4)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-4),
    tiny.state(workdir)['params'],
    tiny.state(expected)['params'],
  )


@pytest.mark.slow
def test_two_processes_train_as_one_does(config, whole, tmp_path):
  statuses, outputs = _end(_start(config, tmp_path))
  assert statuses == [0, 0], outputs
  assert 'finished: test error' in outputs[0]
  assert 'finished' not in outputs[1]
  # 12 test images, in two batches of which the second is filled up.
  errors = [
    line['test/error_rate'] * 12
    for line in tiny.log(tmp_path)
    if 'test/error_rate' in line
  ]
  assert errors == pytest.approx(np.round(errors))
  _assert_same_run(tmp_path, whole)


@pytest.mark.slow
def test_both_train_on_the_labels_that_the_first_predicts(
  config, whole, tmp_path
):
  labels_from = f'--config.labels_from={whole}'
  alone, together = tmp_path / 'alone', tmp_path / 'together'
  done = tiny.cli(
    f'--config={config}', f'--workdir={alone}', labels_from, num_devices=4
  )
  assert done.returncode == 0, done.stderr
  statuses, outputs = _end(_start(config, together, labels_from))
  assert statuses == [0, 0], outputs
  assert [text.count('labels from') for text in outputs] == [1, 0]
  _assert_same_run(together, alone)
  predicted = [np.load(run / 'labels.npy') for run in (alone, together)]
  np.testing.assert_array_equal(*predicted)


@pytest.mark.slow
def test_a_signal_to_one_stops_both_and_they_go_on(config, whole, tmp_path):
  processes = _start(config, tmp_path)
  metrics = tmp_path / 'metrics.jsonl'
  deadline = time.monotonic() + 200
  while not (metrics.exists() and metrics.read_text().count('\n') >= 5):
    assert time.monotonic() < deadline
    time.sleep(0.05)
  processes[1].send_signal(signal.SIGTERM)
  statuses, outputs = _end(processes)
  # They agree at every twentieth step; perhaps it came after the last of these.
  assert statuses in ([143, 143], [0, 0]), outputs
  if statuses[0]:
    assert re.search(r'stopped at step (20|40) by SIGTERM', outputs[0])
    assert _end(_start(config, tmp_path))[0] == [0, 0]
  _assert_same_run(tmp_path, whole)


# Of four test images at a time, in the order of their names.
@pytest.mark.slow
@pytest.mark.parametrize(
  ('failing', 'name'), [(0, 'blue/000.jpg'), (1, 'green/001.jpg')]
)
def test_what_only_one_finds_ends_both_soon(tmp_path, failing, name):
  root = tmp_path / 'data'
  pictures.folder(root, {'train': 10, 'test': 3}, height=12, width=12)
  (root / 'test' / name).write_bytes(b'')
  config = tiny.config_file(tmp_path, **_fields(root))
  processes = _start(config, tmp_path / 'run')
  processes[failing].wait(300)
  # At the latest when JAX misses it, 100 seconds later; otherwise they would
  # wait for each other for 300, and be aborted.
  statuses, outputs = _end(processes, timeout=200)
  assert statuses[failing] == 1, outputs
  assert statuses[1 - failing] != 0
  lines = [x for x in outputs[failing].splitlines() if 'sam_jax: ' in x]
  assert len(lines) == 1
  assert f'{name} cannot be decoded' in lines[0]
  assert 'Traceback' not in outputs[failing]


@pytest.mark.parametrize(
  'arguments',
  [('--coordinator=localhost:1',), ('--num_processes=2', '--process_id=0')],
)
def test_half_a_set_of_flags_is_refused(arguments, tmp_path):
  done = tiny.cli(
    '--config=configs/digits.py', f'--workdir={tmp_path / "run"}', *arguments
  )
  assert done.returncode == 2
  assert 'belong together' in done.stderr
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('count', [1, 2, 4])
def test_processes_feed_all_rows_once(monkeypatch, count):
  monkeypatch.setattr(jax, 'process_count', lambda: count)
  rows = []
  for index in range(count):
    monkeypatch.setattr(jax, 'process_index', lambda index=index: index)
    rows += range(*parallel.process_rows(24))
    assert parallel.is_first_process() == (index == 0)
  assert rows == list(range(24))

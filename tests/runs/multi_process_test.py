"""Two processes with two devices each train as one with four does."""

import re
import signal
import socket
import subprocess
import time

import jax
import numpy as np
import pytest

from sam_jax.training import parallel
from tests import image_files, tiny

_STEPS = 45


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


def _end(processes, timeout=900):
  """Returns the exit statuses and what was printed; fails if they hang."""
  try:
    outputs = [p.communicate(timeout=timeout)[0] for p in processes]
  finally:
    for process in processes:
      process.kill()  # nothing, once it has ended
      process.wait()
      process.stdout.close()
  return [process.returncode for process in processes], outputs


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
def test_two_processes_stop_together_and_train_as_one_does(
  monkeypatch, tmp_path
):
  data, workdir = tmp_path / 'data', tmp_path / 'together'
  image_files.folder(data, {'train': 10, 'test': 3}, height=12, width=12)
  config = tiny.config_file(tmp_path, **_fields(data))
  processes = _start(config, workdir)
  metrics = workdir / 'metrics.jsonl'
  while not (metrics.exists() and metrics.read_text().count('\n') >= 5):
    if any(process.poll() is not None for process in processes):
      break
    time.sleep(0.05)
  processes[1].send_signal(signal.SIGTERM)
  statuses, outputs = _end(processes)
  # They agree at every twentieth step; perhaps it came after the last of these.
  assert statuses in ([143, 143], [0, 0]), outputs
  if statuses[0]:
    assert re.search(r'stopped at step (20|40) by SIGTERM', outputs[0])
    statuses, outputs = _end(_start(config, workdir))
    assert statuses == [0, 0], outputs
  assert ['finished' in text for text in outputs] == [True, False]
  tiny.use_devices(monkeypatch, 4)
  tiny.train(tmp_path / 'alone', **_fields(data))
  _assert_same_run(workdir, tmp_path / 'alone')
  # 12 test images, in two batches of which the second is filled up.
  errors = [
    line['test/error_rate'] * 12
    for line in tiny.log(workdir)
    if 'test/error_rate' in line
  ]
  assert errors == pytest.approx(np.round(errors))


@pytest.mark.slow
def test_what_only_one_finds_ends_both_soon(tmp_path):
  root = tmp_path / 'data'
  image_files.folder(root, {'train': 10, 'test': 3}, height=12, width=12)
  # Of four test images at a time in the order of their names, the second
  # process has the third and fourth.
  (root / 'test' / 'green' / '001.jpg').write_bytes(b'')
  config = tiny.config_file(tmp_path, **_fields(root))
  processes = _start(config, tmp_path / 'run')
  processes[1].wait()
  # The other ends when JAX misses this one, after 100 seconds at the latest,
  # however slow the machine is. Left alone, it would wait for 300.
  statuses, outputs = _end(processes, timeout=250)
  assert statuses[1] == 1, outputs
  assert statuses[0] != 0
  lines = [x for x in outputs[1].splitlines() if 'train: ' in x]
  assert len(lines) == 1
  assert 'green/001.jpg cannot be decoded' in lines[0]
  assert 'Traceback' not in outputs[1]


@pytest.mark.slow
def test_half_a_set_of_flags_is_refused(tmp_path):
  done = tiny.cli(
    '--config=configs/digits.py',
    f'--workdir={tmp_path / "run"}',
    '--coordinator=localhost:1',
  )
  assert done.returncode == 2
  assert 'belong together' in done.stderr
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('count', [1, 2, 4])
def test_processes_feed_all_rows_once(monkeypatch, count):
  """In the release each host feeds whole batches of SVHN and Fashion-MNIST."""
  monkeypatch.setattr(jax, 'process_count', lambda: count)
  rows = []
  for index in range(count):
    monkeypatch.setattr(jax, 'process_index', lambda index=index: index)
    rows += range(*parallel.process_rows(24))
    assert parallel.is_first_process() == (index == 0)
  assert rows == list(range(24))

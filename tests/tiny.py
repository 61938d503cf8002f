"""Runs of a few steps, and what the tests of the outer shell ask of them."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np

from sam_jax.configs import default
from sam_jax.runs import build, checkpoints, loop, metrics_log

ROOT = pathlib.Path(__file__).resolve().parents[1]
STEPS_PER_EPOCH = 5
# The fields of a run whose programs compile in seconds: nothing is random, and
# on one device a batch is a single microbatch.
PLAIN = {
  'm': 16,
  'microbatch_size': 16,
  'model.norm': 'none',
  'model.dropout_rate': 0.0,
  'augmentation.name': 'none',
  'augmentation.cutout_length': 0,
}


def config(**fields):
  """Returns a config of 2 epochs of 5 steps on any of 1, 2, 4, 8 devices.

  BatchNorm, dropout and augmentation are on; the network is smooth, so that
  another order of sums stays a difference of rounding.

  Args:
    **fields: overrides by dotted name, in which __ stands for a dot too; fields
      may be new.
  """
  result = default.get_config()
  settings = {
    'data.train_size': 80,
    'batch_size': 16,
    'm': 4,
    'microbatch_size': 2,
    'num_epochs': 2,
    'model.features': (4,),
    'model.hidden': 8,
    'model.norm': 'batch',
    'model.activation': 'tanh',
    'model.dropout_rate': 0.3,
    'augmentation.name': 'basic',
    'augmentation.cutout_length': 2,
    'checkpoint.every_steps': 3,
    'log.every_steps': 1,
    'log.tensorboard': False,
  } | fields
  with result.unlocked():
    for name, value in settings.items():
      name = name.replace('__', '.')
      *parents, last = name.split('.')
      section = result
      for parent in parents:
        section = section[parent]
      section[last] = value
  return result


def train(workdir, **fields):
  """Trains to the end; returns the result."""
  return loop.train_and_evaluate(config(**fields), workdir)


def config_file(directory, **fields):
  """Writes a config file for the command line; returns its path."""
  path = directory / 'tiny_config.py'
  path.write_text(
    'import sys\n'
    f'sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]\n'
    'import tiny\n'
    'def get_config():\n'
    f'  return tiny.config(**{fields!r})\n'
  )
  return path


def command(*arguments):
  """Returns the command line as a user types it."""
  return [sys.executable, '-m', 'sam_jax.train', *map(str, arguments)]


def environment(num_devices):
  """Returns the variables of a subprocess with that many devices."""
  count = f'--xla_force_host_platform_device_count={num_devices}'
  return os.environ | {'XLA_FLAGS': count}


def cli(*arguments, num_devices=1, timeout=240):
  """Runs the command line in a process of its own."""
  return subprocess.run(
    command(*arguments),
    cwd=ROOT,
    env=environment(num_devices),
    capture_output=True,
    text=True,
    timeout=timeout,
    check=False,
  )


def use_devices(monkeypatch, count):
  """Makes JAX show the first `count` of its devices only."""
  devices = jax.devices()[:count]
  monkeypatch.setattr(jax, 'devices', lambda: devices)
  monkeypatch.setattr(jax, 'device_count', lambda: count)


class Crash(Exception):
  """Stands in for whatever ends a process between two steps."""


def before_step(monkeypatch, act):
  """Calls `act(step)` before each step is dispatched, counted from 1."""
  original = build.Experiment.compile_train_step

  def compile_train_step(self):
    train_step = original(self)

    def step(state, batch):
      act(int(state.step) + 1)
      return train_step(state, batch)

    return step

  monkeypatch.setattr(
    build.Experiment, 'compile_train_step', compile_train_step
  )


def crash_at(monkeypatch, directory, step, **fields):
  """Trains until `step` steps are dispatched."""

  def act(next_step):
    if next_step == step + 1:
      raise Crash

  with monkeypatch.context() as patch:
    before_step(patch, act)
    try:
      train(directory, **fields)
    except Crash:
      return
  raise AssertionError(f'the run ended before step {step + 1}')


def share_programs(monkeypatch, compiled):
  """Compiles a step only if the dict `compiled` does not hold it.

  For runs of one config on the same devices.
  """
  for name in ('compile_train_step', 'compile_eval_step'):
    original = getattr(build.Experiment, name)

    def shared(self, name=name, original=original):
      if name not in compiled:
        compiled[name] = original(self)
      return compiled[name]

    monkeypatch.setattr(build.Experiment, name, shared)


def tree(directory):
  """Returns {relative path: content}, None for a directory."""
  return {
    str(path.relative_to(directory)): (
      path.read_bytes() if path.is_file() else None
    )
    for path in sorted(pathlib.Path(directory).rglob('*'))
  }


def state(workdir, step=None):
  """Returns the arrays of a checkpoint, the newest unless one is named."""
  saved = checkpoints.Checkpoints(
    pathlib.Path(workdir) / 'checkpoints', read_only=True
  )
  try:
    return saved.read_state(saved.latest_step() if step is None else step)
  finally:
    saved.close()


def steps(workdir):
  """Returns the steps of which there is a checkpoint."""
  saved = checkpoints.Checkpoints(
    pathlib.Path(workdir) / 'checkpoints', read_only=True
  )
  try:
    return saved.steps()
  finally:
    saved.close()


def log(workdir):
  """Returns the lines of metrics.jsonl, without what the clock says."""
  return [
    {k: v for k, v in line.items() if k != 'examples_per_second'}
    for line in metrics_log.read(pathlib.Path(workdir))
  ]


def result(workdir):
  """Returns result.json without clock and provenance."""
  content = json.loads((pathlib.Path(workdir) / 'result.json').read_text())
  return {
    k: v
    for k, v in content.items()
    if k not in ('wall_seconds', 'git_commit', 'seal')
  }


def assert_same_run(workdir, other):
  """Two finished runs: every bit of the state, each line, the result."""
  jax.tree.map(np.testing.assert_array_equal, state(workdir), state(other))
  assert log(workdir) == log(other)
  assert result(workdir) == result(other)

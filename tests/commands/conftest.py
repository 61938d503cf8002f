"""Runs a command in this process, as its console command would."""

import importlib
import signal
import sys
import threading
from typing import NamedTuple

import jax
import pytest
from absl import logging

from sam_jax.datasets import registry


class Done(NamedTuple):
  """What a command left behind."""

  status: int
  out: str
  err: str


_CACHE = (
  'jax_persistent_cache_min_compile_time_secs',
  'jax_persistent_cache_min_entry_size_bytes',
)


_HOOKS = (
  (sys, 'excepthook'),
  (sys, 'unraisablehook'),
  (threading, 'excepthook'),
)


@pytest.fixture(autouse=True)
def own_data_sets(monkeypatch):
  """Forgets the data sets that a test has registered, as benchmarks do."""
  for name in ('_LOADERS', '_KINDS'):
    monkeypatch.setattr(registry, name, dict(getattr(registry, name)))


@pytest.fixture
def one_torch_thread(monkeypatch):
  """Several threads of PyTorch wait for each other where cores are busy."""
  torch = pytest.importorskip('torch')
  monkeypatch.setenv('OMP_NUM_THREADS', '1')
  before = torch.get_num_threads()
  torch.set_num_threads(1)
  yield
  torch.set_num_threads(before)


@pytest.fixture
def process():
  """Puts back what a command changes in this process."""
  verbosity = logging.get_verbosity()
  cache = {name: getattr(jax.config, name) for name in _CACHE}
  hooks = [(m, name, getattr(m, name)) for m, name in _HOOKS]
  handler = signal.getsignal(signal.SIGINT)
  yield
  logging.set_verbosity(verbosity)
  for filtered in list(logging.get_absl_handler().filters):
    logging.get_absl_handler().removeFilter(filtered)
  for module, name, hook in hooks:
    setattr(module, name, hook)
  signal.signal(signal.SIGINT, handler)
  for name, value in cache.items():
    jax.config.update(name, value)


@pytest.fixture
def command(process, monkeypatch, capsys):
  """`command(name, *arguments) -> Done`; the name may be of scripts/."""
  del process

  def run(name, *arguments):
    path = name if '.' in name else f'sam_jax.{name}'
    is_loaded = path in sys.modules
    module = importlib.import_module(path)
    if is_loaded:  # its flags have the values of an earlier test
      module = importlib.reload(module)
    monkeypatch.setattr(sys, 'argv', [name, *map(str, arguments)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
      module.cli()
    captured = capsys.readouterr()
    return Done(stop.value.code or 0, captured.out, captured.err)

  return run

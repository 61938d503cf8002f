import json
import os
import subprocess
import sys

import pytest

from sam_jax import startup
from tests import tiny

# Counts the arenas of the C library after eight threads have held memory.
_COUNT = """
import ctypes, importlib.util, sys, threading
spec = importlib.util.spec_from_file_location('startup', sys.argv[1])
startup = importlib.util.module_from_spec(spec)
spec.loader.exec_module(startup)
startup.share_memory()
barrier = threading.Barrier(8)
def hold():
  kept = [bytes(2000 + i) for i in range(100)]
  barrier.wait()
threads = [threading.Thread(target=hold) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
stream = libc.fdopen(1, b'w')
libc.malloc_info(0, ctypes.c_void_p(stream))
libc.fflush(ctypes.c_void_p(stream))
"""


def _arenas(**environment):
  ours = ('MALLOC_ARENA_MAX', 'GLIBC_TUNABLES')
  kept = {k: v for k, v in os.environ.items() if k not in ours}
  found = subprocess.run(
    [sys.executable, '-c', _COUNT, startup.__file__],
    env=kept | environment,
    capture_output=True,
    text=True,
    check=True,
  )
  return found.stdout.count('<heap ')


@pytest.mark.skipif(
  sys.platform != 'linux' or 'CS_GNU_LIBC_VERSION' not in os.confstr_names,
  reason='the C library is not glibc',
)
def test_threads_share_their_memory_unless_the_user_says_so():
  assert _arenas() == 1
  assert _arenas(MALLOC_ARENA_MAX='3') == 3
  assert _arenas(GLIBC_TUNABLES='glibc.malloc.arena_max=3') == 3


# Starts a run as sam-train does, up to its first step; prints what was imported
# and compiled for it. A program that is only traced is none.
_START = """
import json, sys
import jax
from sam_jax import train
from sam_jax.configs import digits
from sam_jax.runs import build, dry_run, loop, preparation
programs, traced = [], []
def note(event, seconds, fun_name=None, **_):
  if event == '/jax/core/compile/backend_compile_duration':
    programs.append(fun_name)
  if event == '/jax/core/compile/jaxpr_trace_duration':
    traced.append(fun_name)
jax.monitoring.register_event_duration_secs_listener(note)
compile_train_step = build.Experiment.compile_train_step
def compile_and_note(self):
  step = compile_train_step(self)
  def first(*args):
    out = step(*args)
    print(json.dumps([list(sys.modules), programs, traced]))
    raise KeyboardInterrupt
  return first
build.Experiment.compile_train_step = compile_and_note
config = digits.get_config()
config.model.features, config.model.hidden = (4,), 8
config.model.norm, config.augmentation.name = 'none', 'none'
config.data.train_size = config.batch_size = config.m = 20
config.microbatch_size = 20
config.log.tensorboard = False
try:
  loop.train_and_evaluate(config, sys.argv[1])
except KeyboardInterrupt:
  pass
"""


def test_a_start_imports_and_compiles_no_more_than_its_first_step_needs(
  tmp_path,
):
  found = subprocess.run(
    [sys.executable, '-c', _START, str(tmp_path / 'run')],
    cwd=tiny.ROOT,
    env=tiny.environment(num_devices=1),
    capture_output=True,
    text=True,
    check=True,
  )
  modules, programs, traced = json.loads(found.stdout.splitlines()[-1])
  heavy = {
    *('matplotlib', 'scipy', 'sklearn', 'tensorflow', 'tensorflow_datasets'),
    *('grain', 'orbax.checkpoint', 'pandas', 'tensorboard', 'wandb', 'torch'),
    *('cv2', 'simplejpeg', 'PIL'),
  }
  assert heavy & set(modules) == set()
  # A key, the parameters, the state, and the step.
  names = ['stage', 'init', 'init_state', 'train_step']
  assert [name.removeprefix('jit(').rstrip(')') for name in programs] == names
  # The model is traced for its shapes too. JAX may come to trace less.
  most = {'init': 2, 'init_state': 1, 'train_step': 1}
  assert {n: traced.count(n) for n in most if traced.count(n) > most[n]} == {}

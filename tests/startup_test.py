import os
import subprocess
import sys

import pytest

from sam_jax import startup

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

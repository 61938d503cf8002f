"""Settings of all tests, made before JAX starts.

8 virtual CPU devices, a compilation cache that outlives the run, compilation
without most optimisations, and an error instead of silent broadcasting. What is
in the environment already goes first.
"""

import os
import pathlib
import signal

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_DEVICES_FLAG = '--xla_force_host_platform_device_count'


def _set_environment():
  """Sets what subprocesses of the tests are to inherit as well."""
  flags = os.environ.get('XLA_FLAGS', '')
  if _DEVICES_FLAG not in flags:
    os.environ['XLA_FLAGS'] = f'{flags} {_DEVICES_FLAG}=8'.strip()
  defaults = {
    'JAX_PLATFORMS': 'cpu',
    'JAX_COMPILATION_CACHE_DIR': str(_ROOT / '.cache' / 'jax'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '0',
    # The tests run each program once or twice, and wait for the compiler. This
    # leaves XLA's own optimisations and takes LLVM's: the training pass of a
    # small network compiled in half the CPU time, and the tests of the official
    # numbers took 113 s in place of 173 s, within the same tolerances. Other
    # options of XLA that were tried saved nothing.
    'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
  }
  for name, value in defaults.items():
    os.environ.setdefault(name, value)


_set_environment()

# A shell ignores it for what it starts in the background, and so would the
# programs under test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)

import jax  # noqa: E402  (reads the environment when it is imported)

jax.config.update('jax_numpy_rank_promotion', 'raise')

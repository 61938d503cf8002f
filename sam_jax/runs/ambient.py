"""JAX's settings while a run is made: a run has its own, not the user's.

They may come from the environment or from the program that calls this one. A
run depends on nothing that its config does not hold, so that it is resumed, or
repeated by somebody else, with the same numbers.
"""

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def pinned() -> Iterator[None]:
  """Sets what numbers depend on to JAX's defaults, for this thread.

  These are the implementation of PRNG keys, and how threefry draws; 64 bits;
  the promotion of dtypes; and the precision of multiplications, which is
  `config.matmul_precision` where a run has one.
  """
  with (
    jax.default_prng_impl('threefry2x32'),
    jax.threefry_partitionable(True),
    jax.enable_x64(False),
    jax.numpy_dtype_promotion('standard'),
    jax.default_matmul_precision(None),
  ):
    yield

"""PRNG keys that depend on their seed alone, whatever JAX is set to."""

import jax
import jax.numpy as jnp
import numpy as np

_BITS = 2**32


def make(seed: int) -> jax.Array:
  """Returns the threefry key of a seed.

  It is `jax.random.key(seed)` under JAX's own defaults. That function also
  follows `jax_default_prng_impl`, `jax_enable_x64` and
  `jax_random_seed_offset`, of which nothing that is reproduced may depend.

  Args:
    seed: a whole number.

  Example:
    >>> import jax
    >>> from sam_jax import keys
    >>> bool(keys.make(7) == jax.random.key(7, impl='threefry2x32'))
    True
  """
  words = [seed // _BITS % _BITS if seed >= 0 else 0, seed % _BITS]
  data = jnp.asarray(np.array(words, np.uint32))
  return jax.random.wrap_key_data(data, impl='threefry2x32')

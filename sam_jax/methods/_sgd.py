"""The plain gradient: what every other method is compared with."""

from sam_jax.methods import base, registry


@registry.register('sgd')
def sgd() -> base.Method:
  """Returns the plain gradient, whatever the optimizer makes of it.

  One gradient in a step. A method too, so that runs that are compared differ in
  the method alone.
  """
  return base.Method()

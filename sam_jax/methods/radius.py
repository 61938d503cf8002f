"""The radius of a perturbation along a run, without compiling anything anew."""

import math
import numbers
from collections.abc import Callable

import jax
import jax.numpy as jnp

from sam_jax import lookup, types
from sam_jax.methods import interface

RadiusFn = Callable[[interface.Context], types.Scalar]


def _progress(ctx: interface.Context) -> jax.Array:
  """Returns the share of the run that is made; 1 beyond its end too."""
  return jnp.minimum(ctx.step / ctx.get('num_steps'), 1)


def _linear(ctx: interface.Context) -> types.Scalar:
  """Returns the share of the run that is left, from 1 to 0."""
  return 1 - _progress(ctx)


def _cosine(ctx: interface.Context) -> types.Scalar:
  """Returns a half cosine from 1 at the first step to 0 at the end."""
  return (1 + jnp.cos(math.pi * _progress(ctx))) / 2


def _learning_rate(ctx: interface.Context) -> types.Scalar:
  """Returns the learning rate in units of its largest value."""
  rate = jnp.asarray(ctx.get('learning_rate'))
  peak = jnp.asarray(ctx.get('peak_learning_rate'))
  return jnp.where(peak == 0, 0, rate / jnp.where(peak == 0, 1, peak))


_SHAPES = {
  'cosine': _cosine,
  'learning_rate': _learning_rate,
  'linear': _linear,
}
SCHEDULES = ('constant', *sorted(_SHAPES))


def create(
  rho: float, schedule: str = 'constant', rho_min: float | None = None
) -> RadiusFn:
  r"""Returns the radius of each step.

  .. math:: \rho_t = \rho_{min} + (\rho - \rho_{min})\, s_t

  Args:
    rho: the largest radius, in units of the parameters, >= 0.
    schedule: what s is: 'constant' is 1; 'linear' falls from 1 at the first
      step to 0 at the end of the run, 'cosine' does so along a half cosine;
      'learning_rate' is the learning rate of the step in units of the largest
      one of the run, as in GSAM (Zhuang et al. 2022, where the smallest
      learning rate is subtracted from both; here it is 0). Where a warm-up
      overlaps the decay, the largest one that was asked for is not reached.
    rho_min: radius where s is 0, in [0, rho]; None is 0.

  Returns:
    A function from a method's context to the radius: the number rho itself if
    it is constant or 0, so that a rho of 0 costs one pass, else a scalar array.

  Raises:
    ValueError: an unknown schedule, a radius out of range, or a rho_min that
      nothing leads to.

  Example:
    >>> import jax.numpy as jnp
    >>> from sam_jax.methods import interface, radius
    >>> ctx = interface.Context(jnp.int32(25), num_steps=100)
    >>> print(radius.create(1.0, 'linear', 0.5)(ctx))
    0.875
  """
  lookup.check('rho_schedule', schedule, SCHEDULES)
  if not (isinstance(rho, numbers.Real) and 0 <= rho < math.inf):
    raise ValueError(
      f'rho is {rho!r}; it is a radius: give a number >= 0, and let it change '
      'by rho_schedule'
    )
  low = 0.0 if rho_min is None else rho_min
  if not 0 <= low <= rho:
    raise ValueError(f'rho_min is {rho_min}; it must be in [0, rho = {rho}]')
  if schedule == 'constant' and rho_min is not None:
    raise ValueError(
      f'rho_min is {rho_min}, and rho_schedule is constant; leave it out, or '
      f'choose a rho_schedule of {", ".join(SCHEDULES[1:])}'
    )
  if schedule == 'constant' or rho == 0:
    return lambda ctx: rho
  shape = _SHAPES[schedule]
  return lambda ctx: low + (rho - low) * shape(ctx)

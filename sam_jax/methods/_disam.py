"""DISAM: no domain decides alone where the parameters are perturbed to."""

import dataclasses
import math
from typing import Any, ClassVar, Unpack

import jax
import jax.numpy as jnp

from sam_jax import sam, types
from sam_jax.methods import base, interface, registry
from sam_jax.methods._focal_sam import FIXES, weigh
from sam_jax.methods.axes import Axes, create
from sam_jax.methods.derived import FORWARD, derive
from sam_jax.methods.perturbed import Perturbed


@registry.register('disam', fixes=FIXES)
def disam(
  rho: float = 0.05, lam: float = 0.1, **axes: Unpack[Axes]
) -> base.Method:
  r"""Returns Domain-Inspired SAM, for data of several domains.

  With the mean loss L_d of each of the D domains in a group, and their mean,

  .. math::
    V = \frac1D \sum_d (L_d - \bar L)^2, \qquad
    \epsilon = \rho\, \frac{\nabla (L - \lambda V)(w)}
      {\|\nabla (L - \lambda V)(w)\|_2}, \qquad
    \tilde g = \nabla L(w + \epsilon)

  so that a domain that has been learned already is perturbed like the others.
  Two gradients and one forward pass in a step: the weights of the examples in
  the first gradient follow from the losses of all domains. With lam = 0 it is
  SAM, and so it is for a group of one domain; with rho = 0 it is SGD.

  A domain counts in the groups that have examples of it. With a group of a few
  examples, V is mostly noise: m should be several times the number of domains.
  A mixed image counts for its own domain. Take it where the model is to work on
  domains that it was not trained on.

  Args:
    rho: radius of the perturbation, in units of the parameters. The authors
      have 0.05.
    lam: weight of the variance, >= 0. The authors have 0.1.
    **axes: other choices on the axes, see `Axes`; a direction has to be made of
      a gradient.

  Raises:
    ValueError: a value is out of range; or, when a run is built, its data have
      no domains.

  Source: Zhang et al. 2024 (ICLR), and the authors' `algorithms/DISAM.py`.
  """
  if not 0 <= lam < math.inf:
    raise ValueError(f'lam is {lam}; it must be a number >= 0')
  method = create(rho, axes)
  if lam == 0:
    return method
  return derive(_Disam, method, FORWARD, starts_anew=True, lam=float(lam))


@dataclasses.dataclass(frozen=True)
class _Disam(Perturbed):
  """See `disam`."""

  needs_of_task: ClassVar[tuple[str, ...]] = ('domains',)
  lam: float = 0.1

  def perturb(
    self,
    problem: interface.Problem,
    params: types.Params,
    ctx: interface.Context,
    memory: Any = None,
    first: tuple[Any, types.Grads] | None = None,
  ) -> tuple[interface.GroupResult, sam.SamInfo]:
    """Returns the result with a perturbation of L - lam V."""
    del first  # that of L

    def ascend(w: types.Params) -> tuple[Any, types.Grads]:
      weights = self._weights(problem, problem.get('example_losses')(w))
      return problem.get('with_losses')(weigh, weights).ascend(w)

    return super().perturb(problem._replace(ascend=ascend), params, ctx, memory)

  def _weights(
    self, problem: interface.Problem, losses: jax.Array
  ) -> jax.Array:
    r"""Returns the factor of each example's gradient.

    The derivative of V is (2 / D) \sum_d (L_d - \bar L) \nabla L_d.
    """
    members, shares = by_domain(problem)
    total = problem.get('mean')(members * losses[..., None])
    is_there = shares > 0
    count = jnp.sum(is_there)
    divisors = jnp.where(is_there, shares, 1)
    means = total / divisors  # 0 for a domain without examples
    centered = jnp.where(is_there, means - jnp.sum(means) / count, 0)
    slopes = 2 / count * centered / divisors
    return 1 - self.lam * (members @ slopes)


def by_domain(problem: interface.Problem) -> tuple[jax.Array, jax.Array]:
  """Returns which domain the examples are of, and the domains' shares.

  Args:
    problem: of a group.

  Returns:
    `[microbatches, b, D]` of 1 and 0, of the examples on this device, and the
    share of each domain in the group, `[D]`.
  """
  members = jax.nn.one_hot(
    problem.get('domains'), problem.get('num_domains'), dtype=jnp.float32
  )
  return members, problem.get('mean')(members)

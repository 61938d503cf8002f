"""DGSAM: the domains perturb one after the other (a RECONSTRUCTION)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

import jax
import jax.numpy as jnp

from sam_jax import sam as sam_lib, tree, types
from sam_jax.methods import base, interface, registry
from sam_jax.methods._disam import by_domain
from sam_jax.methods._focal_sam import weigh
from sam_jax.methods.axes import Choices, create
from sam_jax.methods.perturbed import Perturbed

_FIXES = ('direction', 'combine', 'ascent_share', 'descent_share', 'loss_share')


@registry.register('dgsam', fixes=_FIXES)
def dgsam(
  rho: float = 0.05,
  domains: int = 5,
  rho_schedule: str = 'constant',
  rho_min: float | None = None,
  **axes: Unpack[Choices],
) -> base.Method:
  r"""Returns Decreased-overhead Gradual SAM: a RECONSTRUCTION.

  The domains d_1, ..., d_S are in an order that is drawn for each group anew.
  From w_0 = w on, for j = 1, ..., S,

  .. math::
    g_j = \nabla L_{d_j}(w_{j-1}), \qquad
    w_j = w_{j-1} + \rho\, g_j / \|g_j\|_2

  .. math::
    g_{S+1} = \nabla L_{d_1}(w_S), \qquad
    \tilde g = \frac{1}{S + 1} \sum_{j=1}^{S+1} g_j

  so that every domain perturbs, and the gradients on the way are used for the
  descent. For S domains the paper counts S + 1 gradients of one domain each,
  where SAM for each domain takes 2 S. Here an example's domain is known on the
  device alone, and each of them is a pass over all examples of the group, of
  which those of other domains count nothing: S + 1 gradients in a step. With
  rho = 0 it is SGD. With one domain it is the mean of the gradients of SGD and
  SAM.

  A domain without an example in a group is passed over. Take it to compare with
  `disam`, which costs less.

  Args:
    rho: radius of each perturbation, in units of the parameters. The default is
      SAM's.
    domains: S, of the data set; another number is refused.
    rho_schedule: see `radius.create`.
    rho_min: see `radius.create`.
    **axes: metric and mask, see `Choices`.

  Raises:
    ValueError: a value is out of range; or, when a run is built, its data have
      no domains, or another number of them.

  Source: RECONSTRUCTION of Song et al. 2025 (arXiv 2503.23430) from public
  reviews: neither the paper's algorithm nor code was read. The factor of the
  mean, and whether g_1 belongs to it, are unknown.
  """
  if domains < 1:
    raise ValueError(f'domains is {domains}; it must be a number >= 1')
  schedule = {'rho_schedule': rho_schedule, 'rho_min': rho_min}
  sam = create(rho, {**axes, **schedule})
  if not isinstance(sam, Perturbed):  # rho is 0
    return sam
  if sam.mask.applies_later:
    raise ValueError(
      'dgsam takes a mask that is fixed, as of names; choose another one'
    )
  return _Dgsam(sam, domains, float(domains + 1))


@dataclasses.dataclass(frozen=True)
class _Dgsam(base.Method):
  """See `dgsam`."""

  needs_of_task: ClassVar[tuple[str, ...]] = ('domains',)
  sam: Perturbed
  domains: int
  gradient_evaluations: float

  def check(self, offers: Mapping[str, Any]) -> None:
    """Refuses data of another number of domains.

    Raises:
      ValueError: the message has the number.
    """
    super().check(offers)
    if offers['domains'] != self.domains:
      raise ValueError(
        f'domains is {self.domains}, and the data have {offers["domains"]} '
        f'domains to train on; set domains={offers["domains"]}'
      )

  def gradient(
    self,
    problem: interface.Problem,
    state: interface.State,
    params: types.Params,
    ctx: interface.Context,
  ) -> interface.GroupResult:
    """Returns the mean of the gradients on the way."""
    del state
    members, shares = by_domain(problem)
    weights = members / jnp.where(shares > 0, shares, 1)[None, None]
    perturbation = self.sam.perturbation_fn(ctx)
    order = _order(shares, ctx.get('key'))
    moved, found = params, []
    for number in [*range(self.domains), 0]:
      of_domain = problem.get('with_losses')(weigh, weights[..., order[number]])
      found.append(of_domain.descend(moved))
      if len(found) <= self.domains:
        is_there = shares[order[number]] > 0
        epsilon = perturbation(found[-1][1], params)
        epsilon = jax.tree.map(
          lambda e, t=is_there: jnp.where(t, e, jnp.zeros_like(e)), epsilon
        )
        moved = jax.tree.map(tree.add, moved, epsilon)
    grads = _mean([g for _, g in found], shares, order)
    (value, aux), first = found[-1][0], found[0][1]
    info = sam_lib.SamInfo(
      value, aux, first, grads, jax.tree.map(jnp.subtract, moved, params)
    )
    diagnostics = problem.diagnose(params, found[0][0], info)
    return interface.GroupResult(
      found[0][0], grads, (), jnp.float32(1), diagnostics
    )


def _order(shares: jax.Array, key: jax.Array) -> jax.Array:
  """Returns the domains in a random order, those without examples last."""
  places = jax.random.uniform(key, shares.shape)
  return jnp.argsort(jnp.where(shares > 0, places, 2 + places))


def _mean(
  grads: list[types.Grads], shares: jax.Array, order: jax.Array
) -> types.Grads:
  """Returns the mean of the gradients of the domains that have examples."""
  counts = (shares[order] > 0).astype(jnp.float32)
  counts = jnp.concatenate([counts, counts[:1]])
  factors = counts / jnp.sum(counts)

  def mean(*leaves: jax.Array) -> jax.Array:
    terms = [
      tree.times(factor, tree.wide(leaf))
      for factor, leaf in zip(factors, leaves, strict=True)
    ]
    return sum(terms[1:], terms[0]).astype(leaves[0].dtype)

  return jax.tree.map(mean, *grads)

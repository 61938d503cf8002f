"""SAMPa: the two gradients of a step do not wait for each other."""

import dataclasses
import math
from typing import Any, Unpack

import jax
import jax.numpy as jnp

from sam_jax import leaves, perturbations, tree, types
from sam_jax.methods import base, interface, registry
from sam_jax.methods.axes import Choices, create
from sam_jax.methods.perturbed import Perturbed

_FIXED = ['direction', 'combine', 'ascent_share', 'descent_share', 'loss_share']


@registry.register('sampa', fixes=_FIXED)
def sampa(
  rho: float = 0.1,
  lam: float = 0.2,
  momentum: float = 0.0,
  rho_schedule: str = 'constant',
  rho_min: float | None = None,
  **axes: Unpack[Choices],
) -> base.Method:
  r"""Returns SAM parallelized (SAMPa).

  .. math::
    \tilde w_t = w_t + \rho\, h_t / \|h_t\|_2, \qquad
    y_{t+1} = w_t - \eta_t\, h_t, \qquad h_t = \nabla L(y_t), \qquad
    \tilde g_t = (1 - \lambda)\, \nabla L(\tilde w_t) +
      \lambda\, \nabla L(y_{t+1})

  with the learning rate eta. Both gradients are made at points that are known
  before the step, so that they do not wait for each other. Two gradients in a
  step: the work is that of SAM, and time is gained only where they run at the
  same time, which is left to the compiler here. The state is h, a tree like the
  parameters. With rho = 0 and lam = 0 it is SGD; with lam = 0 and a learning
  rate of 0 for y it is `async_sam`. In a loop of one's own, `value_and_grad`
  needs a `learning_rate`.

  h is zero before the first step, as in the authors' code: that step is SGD's.
  It is that of the whole batch: a batch has one perturbation, whatever m is.
  There is no gradient at w. Loss, error and BatchNorm statistics of the
  training are those at y, a step ahead, and what compares two passes is not
  logged. Both gradients are of the loss that is trained, so that weight decay
  with `place='descent'` takes part in the perturbation too.

  Args:
    rho: radius of the perturbation, in units of the parameters; the authors
      have 0.1 for ResNet-56 on CIFAR-10.
    lam: share of the gradient at y, in [0, 1]; the authors have 0.2.
    momentum: mu of a y that moves as the optimizer does, w - eta (h + mu v),
      with the optimizer's momentum v, >= 0. The authors' code has that of its
      SGD, 0.9; the default is the paper's formula.
    rho_schedule: see `radius.create`.
    rho_min: see `radius.create`.
    **axes: metric and mask, see `Choices`.

  Raises:
    ValueError: a value is out of range; or there is a `momentum`, and before
      the first step the optimizer has none.

  Source: Xie et al. 2024 (NeurIPS, arXiv 2410.10683), and the authors' code.
  Differs from them: there the gradient at w + epsilon is of the batch of the
  step before, of which h is, and the one at y of the next batch; here a step
  has one batch for both, so h is of another batch than what it perturbs.
  Differs from the code: there lam = 0 perturbs nothing, since h is the gradient
  less what belongs to w + epsilon, over lam.
  """
  if not 0 <= lam <= 1:
    raise ValueError(f'lam is {lam}; it is a share: give a number in [0, 1]')
  if not 0 <= momentum < math.inf:
    raise ValueError(f'momentum is {momentum}; it must be a number >= 0')
  schedule = {'rho_schedule': rho_schedule, 'rho_min': rho_min}
  needs = ('momentum',) if momentum else ()
  sam = create(rho, {**axes, **schedule})
  if not isinstance(sam, Perturbed):  # rho is 0
    return sam if lam == 0 else _SamPa(None, lam, momentum, needs)
  if sam.mask.applies_later:
    raise ValueError(
      'sampa takes a mask that is fixed, as of names; choose another one'
    )
  return _SamPa(sam, lam, momentum, needs)


@dataclasses.dataclass(frozen=True)
class _SamPa(base.Method):
  """See `sampa`; `sam` is None if rho is 0."""

  sam: Perturbed | None
  lam: float
  momentum: float
  needs: tuple[str, ...]
  gradient_evaluations: float = 2.0

  def memory(self, params: types.Params) -> types.PyTree:
    """Returns the h of before the first step, zeros."""
    return leaves.wide_zeros(params)

  def gradient(
    self,
    problem: interface.Problem,
    state: interface.State,
    params: types.Params,
    ctx: interface.Context,
  ) -> interface.GroupResult:
    """Returns a mean of two gradients; stats is the one at y."""
    whole, h = leaves.Parameters(params), state.memory
    perturb = self.sam.perturbation_fn(ctx) if self.sam else perturbations.none
    epsilon = perturb(h, whole.like(h))
    _, ahead = problem.descend(whole.moved(epsilon))
    out, at_y = problem.descend(whole.moved(self._step(h, ctx)))
    grads = jax.tree.map(self._mean, ahead, at_y)
    return interface.GroupResult(out, grads, at_y, jnp.float32(1), {})

  def conclude(
    self,
    memory: types.PyTree,
    result: interface.GroupResult,
    ctx: interface.Context,
  ) -> tuple[types.Grads, types.PyTree]:
    """Returns the mean, and the gradient at y as the next h."""
    del ctx
    return result.grads, leaves.kept(memory, result.stats)

  def _step(self, h: types.PyTree, ctx: interface.Context) -> types.PyTree:
    """Returns the way from w to y."""
    rate = jnp.asarray(ctx.get('learning_rate'))
    if self.momentum:
      h = jax.tree.map(
        lambda x, v: x + self.momentum * tree.wide(v), h, ctx.get('momentum')
      )
    # Downhill is along the conjugate of JAX's gradient.
    return jax.tree.map(lambda x: tree.times(-rate, jnp.conj(x)), h)

  def _mean(self, ahead: Any, at_y: Any) -> jax.Array:
    """Returns the weighted mean of two gradients of a parameter."""
    mean = (1 - self.lam) * tree.wide(ahead) + self.lam * tree.wide(at_y)
    return mean.astype(jnp.asarray(ahead).dtype)

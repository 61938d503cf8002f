"""MESA: the outputs stay close to those of averaged parameters."""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from sam_jax import leaves, tree, types
from sam_jax.methods import base, interface, registry, whens
from sam_jax.methods.derived import FORWARD


@registry.register('mesa')
def mesa(
  lam: float = 0.8,
  tau: float = 5.0,
  decay: float = 0.9998,
  start: float = 0.05,
) -> base.Method:
  r"""Returns Memory-Efficient Sharpness-Aware Training.

  With the logits f(w) and an exponential moving average v of the parameters,

  .. math::
    v_t = \beta v_{t-1} + (1 - \beta) w_t, \qquad
    \tilde g = \nabla \left[ L(w_t) + \lambda \tau^2\, \frac1m \sum_x
      KL\!\left( \mathrm{softmax}\, \frac{f_x(v_t)}{\tau}\, \Big\|\,
      \mathrm{softmax}\, \frac{f_x(w_t)}{\tau} \right) \right]

  from v_0 = w_0 on; v_t is not differentiated. A minimum is sharp if the loss
  falls suddenly on the way into it, which the second term is against. Nothing
  is perturbed, so it costs one gradient and one forward pass in a step, and a
  copy of the parameters. With lam = 0 it is SGD. Take it where two gradients
  are too many.

  The averaged parameters see the same examples, masks and microbatches as
  the trained ones, and BatchNorm normalises by the statistics of these; only
  the trained parameters change the running statistics.

  Args:
    lam: weight of the term, >= 0. The authors have 0.8 for ImageNet.
    tau: temperature, > 0. The authors have 5.
    decay: beta, in [0, 1). The default is that of the authors' code, in runs of
      110,000 steps; 1 / (1 - decay) should be far below the number of steps.
    start: share of the run before the first step that has the term, in [0, 1];
      the average is kept from the beginning. The authors have 5 of 90 epochs.

  Raises:
    ValueError: a value is out of range; or, when a run is built, the outputs of
      its task are no logits.

  Source: Du et al. 2022 (arXiv 2205.14083), section 4.2, and the authors'
  `MESA_train.py` and `run.sh`. The paper's equation has no factor tau^2; their
  code has it, and the values belong to it. Differs from their code: there the
  averaged network is in evaluation mode, with averaged running statistics.

  `saf` of the same paper has, in the place of the averaged parameters' outputs,
  those of the same example some epochs ago: no forward pass more, but a table
  that grows with the data set.
  """
  check_term(lam, tau)
  if not 0 <= decay < 1:
    raise ValueError(f'decay is {decay}; give a number in [0, 1)')
  whens.Late(start)  # refuses what is no share
  if lam == 0:
    return base.Method()
  return _Mesa(lam, tau, decay, start, 1 + (1 - start) * FORWARD)


@dataclasses.dataclass(frozen=True)
class _Mesa(base.Method):
  """See `mesa`."""

  needs_of_task: ClassVar[tuple[str, ...]] = ('logits',)
  lam: float
  tau: float
  decay: float
  start: float
  gradient_evaluations: float

  def memory(self, params: types.Params) -> types.PyTree:
    """Returns v_0, a copy of the parameters."""
    return jax.tree.map(
      lambda p: jnp.copy(tree.wide(p)) if leaves.is_float(p) else None, params
    )

  def gradient(
    self,
    problem: interface.Problem,
    state: interface.State,
    params: types.Params,
    ctx: interface.Context,
  ) -> interface.GroupResult:
    """Returns the gradient of the loss with the term, from its start on."""

    def plain(of: interface.Problem) -> interface.GroupResult:
      out, grads = of.descend(params)
      return interface.GroupResult(out, grads, (), jnp.float32(0), {})

    def with_term() -> interface.GroupResult:
      average = jax.tree.map(
        lambda v, p: p if v is None else v.astype(p.dtype),
        self._average(state.memory, params),
        params,
        is_leaf=_is_none,
      )
      targets = problem.get('outputs')(average)
      return plain(problem.get('with_losses')(self._losses, targets))

    if self.start == 0:
      return with_term()
    has_begun = whens.Late(self.start)((), None, ctx)
    return base.either(has_begun, with_term, lambda: plain(problem))

  def conclude(
    self,
    memory: types.PyTree,
    result: interface.GroupResult,
    ctx: interface.Context,
  ) -> tuple[types.Grads, types.PyTree]:
    """Returns the gradient, and v_t."""
    return result.grads, self._average(memory, ctx.get('params'))

  def _average(
    self, memory: types.PyTree, params: types.Params
  ) -> types.PyTree:
    """Returns the average with the newest parameters in it."""

    def add(v: jax.Array | None, p: jax.Array) -> jax.Array | None:
      return None if v is None else v + (1 - self.decay) * (tree.wide(p) - v)

    return jax.tree.map(add, memory, params, is_leaf=_is_none)

  def _losses(
    self,
    logits: jax.Array,
    losses: jax.Array,
    penalty: types.Scalar,
    targets: jax.Array,
  ) -> jax.Array:
    """Returns the losses of a microbatch with the term."""
    term = divergence(targets, logits, self.tau)
    return losses + penalty + self.lam * term


def check_term(lam: float, tau: float) -> None:
  """Refuses a weight or a temperature that is none.

  Raises:
    ValueError: the message names it.
  """
  for name, value in (('lam', lam), ('tau', tau)):
    if not 0 <= value < math.inf or (name == 'tau' and value == 0):
      limit = '> 0' if name == 'tau' else '>= 0'
      raise ValueError(f'{name} is {value}; it must be a number {limit}')


def divergence(targets: jax.Array, logits: jax.Array, tau: float) -> jax.Array:
  r"""Returns \tau^2 KL(softmax(targets / tau) || softmax(logits / tau)).

  Args:
    targets: logits, `[rows, ..., classes]`.
    logits: likewise.
    tau: temperature.

  Returns:
    Means over all but the first axis, `[rows]`.
  """
  log_p = jax.nn.log_softmax(tree.wide(targets) / tau)
  log_q = jax.nn.log_softmax(tree.wide(logits) / tau)
  found: Any = jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
  return tau**2 * jnp.mean(found.reshape(len(found), -1), axis=1)


def _is_none(x: Any) -> bool:
  """Whether x stands for a leaf that is not averaged."""
  return x is None

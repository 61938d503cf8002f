"""SAF: the outputs stay close to those of the same examples epochs ago."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from sam_jax import types
from sam_jax.methods import base, interface, registry, whens
from sam_jax.methods._mesa import check_term, divergence


@registry.register('saf')
def saf(
  lam: float = 0.3,
  tau: float = 5.0,
  epochs: int = 3,
  start: float = 0.05,
  examples: int = 50_000,
  classes: int = 10,
) -> base.Method:
  r"""Returns Sharpness-Aware Training for Free.

  With the logits f_x(w) of an example x, and those of x in the training E
  epochs ago,

  .. math::
    \tilde g = \nabla \left[ L(w_t) + \lambda \tau^2\, \frac1m \sum_x
      KL\!\left( \mathrm{softmax}\, \frac{y_x^{(e-E)}}{\tau}\, \Big\|\,
      \mathrm{softmax}\, \frac{f_x(w_t)}{\tau} \right) \right]

  where y_x^(e) = f_x(w) at the step of epoch e that had x in its batch, with
  the augmentation and the dropout of that step. A minimum is sharp if the loss
  falls suddenly on the way into it, which the second term is against. Nothing
  is perturbed, and the logits are those of the pass that makes the gradient: it
  costs one gradient in a step. With lam = 0 it is SGD. An example has no second
  term until it was trained E times, so that a run of E epochs is SGD, too.

  What it costs is memory: E x examples x classes numbers of 4 bytes on every
  device and in every checkpoint. They are 6 MB for CIFAR-10, 60 MB for
  CIFAR-100, and 15 GB for ImageNet. Take it where that is little and a second
  gradient is too much; elsewhere `mesa` has a copy of the parameters instead.

  Args:
    lam: weight of the term, >= 0. The authors have 0.3.
    tau: temperature, > 0. The authors have 5.
    epochs: E, >= 1. The paper has 3; of the authors' code some runs have 2.
    start: share of the run before the first step that has the term, in [0, 1];
      the logits are kept from the beginning. The authors have 5 of 90 epochs,
      or 30 % of the run.
    examples: number of training examples of the data, or more, so that a run
      on the validation split can have the same; a smaller one is refused.
    classes: number of classes of the data; another one is refused. Both
      defaults are those of CIFAR-10.

  Raises:
    ValueError: a value is out of range; or, when a run is built, its data have
      other numbers, its examples are mixed with each other, or the outputs of
      its task are no logits.

  Source: Du et al. 2022 (arXiv 2205.14083), section 4.1, and the authors'
  `SAF_train.py`. The paper's equation has no factor tau^2; their code has it,
  and the values belong to it. Differs from their code: there every process has
  a table of its own, while a shuffled example is in another process in most
  epochs, so that its logits are older, or zeros if that process never had it;
  here all devices have all logits. An example that an epoch leaves out, in the
  batch that would not be full, has those of the E-th last time that it was
  trained. Their code takes mixed images too, whose logits belong to two
  examples; here mixing is refused.
  """
  check_term(lam, tau)
  for name, value, least in (
    ('epochs', epochs, 1),
    ('examples', examples, 1),
    ('classes', classes, 2),
  ):
    if value < least:
      raise ValueError(
        f'{name} is {value}; it must be a whole number >= {least}'
      )
  late = whens.Late(start)  # refuses what is no share
  if lam == 0:
    return base.Method()
  return _Saf(lam, tau, epochs, late, examples, classes)


@dataclasses.dataclass(frozen=True)
class _Saf(base.Method):
  """See `saf`.

  `logits` holds the last E of each example, and `seen` how many there were, so
  that `seen % E` is the place of the oldest ones, which the next replace.
  """

  needs_of_task: ClassVar[tuple[str, ...]] = ('logits', 'examples')
  lam: float
  tau: float
  epochs: int
  late: whens.Late
  examples: int
  classes: int

  def check(self, offers: Mapping[str, Any]) -> None:
    """Refuses data that do not fit into the table.

    Raises:
      ValueError: the message has the numbers.
    """
    super().check(offers)
    examples, classes = offers['examples'], offers['logits']
    if examples > self.examples or classes != self.classes:
      raise ValueError(
        f'examples is {self.examples} and classes is {self.classes}, and the '
        f'data have {examples} examples to train on and {classes} classes; set '
        f'examples={examples} and classes={classes}'
      )

  def memory(self, params: types.Params) -> types.PyTree:
    """Returns an empty table."""
    del params
    shape = (self.examples, self.epochs, self.classes)
    return {
      'logits': jnp.zeros(shape, jnp.float32),
      'seen': jnp.zeros(self.examples, jnp.int32),
    }

  def gradient(
    self,
    problem: interface.Problem,
    state: interface.State,
    params: types.Params,
    ctx: interface.Context,
  ) -> interface.GroupResult:
    """Returns the gradient of the loss with the term, and the logits."""
    index = problem.get('examples')
    seen = state.memory['seen'][index]
    targets = state.memory['logits'][index, seen % self.epochs]
    has_term = (seen >= self.epochs) & self.late((), None, ctx)
    with_term = problem.get('with_losses')(
      self._losses, (targets, has_term.astype(jnp.float32))
    )
    out, grads, logits = with_term.get('observed')(params)
    return interface.GroupResult(
      out,
      grads,
      stats=(),
      perturbed=jnp.float32(0),
      diagnostics={},
      rows={'index': index, 'logits': logits.astype(jnp.float32)},
    )

  def conclude(
    self,
    memory: types.PyTree,
    result: interface.GroupResult,
    ctx: interface.Context,
  ) -> tuple[types.Grads, types.PyTree]:
    """Returns the gradient, and the table with the logits of the batch."""
    del ctx
    index = result.rows['index']
    oldest = memory['seen'][index] % self.epochs
    return result.grads, {
      'logits': memory['logits'].at[index, oldest].set(result.rows['logits']),
      'seen': memory['seen'].at[index].add(1),
    }

  def _losses(
    self,
    logits: jax.Array,
    losses: jax.Array,
    penalty: types.Scalar,
    values: tuple[jax.Array, jax.Array],
  ) -> jax.Array:
    """Returns the losses of a microbatch with the term."""
    targets, has_term = values
    # Without a term nothing depends on the logits, be they infinite.
    rows = has_term.reshape(-1, *(1,) * (logits.ndim - 1)) > 0
    targets, logits = (
      jnp.where(rows, x, jnp.zeros_like(x)) for x in (targets, logits)
    )
    term = divergence(targets, logits, self.tau)
    return losses + penalty + self.lam * has_term * term

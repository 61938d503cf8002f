"""In which steps a method perturbs: by their number, or by chance."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from sam_jax import types
from sam_jax.methods import parts
from sam_jax.methods.interface import Context, Problem


class Every(parts.When):
  """In every k-th step, the first one included."""

  def __init__(self, steps: int) -> None:
    """Takes k.

    Raises:
      ValueError: it is below 1.
    """
    if steps < 1:
      raise ValueError(f'every is {steps}; it must be a whole number >= 1')
    self.share = 1 / steps
    self._steps = steps

  def __call__(
    self, memory: types.PyTree, grads: types.Grads | None, ctx: Context
  ) -> jax.Array:
    """Returns whether the step's number is a multiple of k."""
    del memory, grads
    return ctx.step % self._steps == 0


class Late(parts.When):
  """From a share of the run on (late-phase SAM).

  Source: Zhou et al. 2025, who switch at epoch 175 of 200.
  """

  def __init__(self, start: float) -> None:
    """Takes the share of the run that is made without a perturbation.

    Raises:
      ValueError: it is not in [0, 1].
    """
    if not 0 <= start <= 1:
      raise ValueError(
        f'start is {start}; it is a share of the run: give a number in [0, 1]'
      )
    self.share = 1 - start
    self._start = start

  def __call__(
    self, memory: types.PyTree, grads: types.Grads | None, ctx: Context
  ) -> jax.Array:
    """Returns whether that share of the steps is made."""
    del memory, grads
    # Rounded: 0.7 of 10 steps is 7 of them.
    first = math.ceil(round(self._start * ctx.get('num_steps'), 6))
    return ctx.step >= first


class Randomly(parts.When):
  """In a step with some probability, the same for all groups (SS-SAM).

  Source: Zhao et al. 2022 (Stochastic Scheduled SAM).
  """

  def __init__(self, probability: float) -> None:
    """Takes the probability.

    Raises:
      ValueError: it is not in [0, 1].
    """
    if not 0 <= probability <= 1:
      raise ValueError(f'probability is {probability}; give a number in [0, 1]')
    self.share = probability

  def __call__(
    self, memory: types.PyTree, grads: types.Grads | None, ctx: Context
  ) -> jax.Array:
    """Returns whether the step is drawn."""
    del memory, grads
    key = jax.random.fold_in(ctx.get('step_key'), 0x5EED)
    return jax.random.uniform(key) < self.share


class All(parts.When):
  """In the steps in which several all perturb."""

  def __init__(self, whens: Mapping[str, parts.When]) -> None:
    """Takes them by name."""
    self._whens = whens
    self.needs_gradient = any(w.needs_gradient for w in whens.values())
    self.share = 1.0
    for when in whens.values():
      self.share *= when.share

  def __call__(
    self, memory: types.PyTree, grads: types.Grads | None, ctx: Context
  ) -> jax.Array:
    """Returns whether all perturb."""
    memory = self._by_name(memory)
    are = [when(memory[name], grads, ctx) for name, when in self._whens.items()]
    return jnp.all(jnp.stack(are))

  def memory(self, params: types.Params) -> types.PyTree:
    """Returns what each of them remembers."""
    return {name: when.memory(params) for name, when in self._whens.items()}

  def stats(
    self,
    problem: Problem,
    memory: types.PyTree,
    params: types.Params,
    grads: types.Grads,
    ctx: Context,
  ) -> types.PyTree:
    """Returns those of each of them."""
    memory = self._by_name(memory)
    return {
      name: when.stats(problem, memory[name], params, grads, ctx)
      for name, when in self._whens.items()
    }

  def remember(
    self,
    memory: types.PyTree,
    stats: types.PyTree,
    grads: types.Grads,
    ctx: Context,
  ) -> types.PyTree:
    """Returns what each of them remembers."""
    memory, stats = self._by_name(memory), self._by_name(stats)
    return {
      name: when.remember(memory[name], stats[name], grads, ctx)
      for name, when in self._whens.items()
    }

  def _by_name(self, values: types.PyTree) -> types.PyTree:
    """Returns a tree by name; it is `()` where there is nothing in it."""
    return {name: () for name in self._whens} if values == () else values

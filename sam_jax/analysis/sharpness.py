r"""m-sharpness: how much the loss rises within a ball, by groups of m examples.

.. math::
  \frac{1}{G} \sum_{g=1}^{G} \max_{\epsilon \in B} L_g(w + \epsilon) - L_g(w)

over G disjoint groups of m examples each (Foret et al. 2020, section 4.1), L_g
being the mean loss of a group and B a ball. The maximum is found by one ascent
step, as the paper and SAM do it, or by projected gradient ascent; in the place
of the maximum there may be the mean over random directions.
"""

import functools
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sam_jax import keys, perturbations, tree, types
from sam_jax.analysis import checks, objective as objective_lib, units


class Ball(NamedTuple):
  r"""The perturbations that are allowed: :math:`\|T^{-1}\epsilon\|_p \le \rho`.

  Attributes:
    rho: its radius.
    p: 2 or infinity.
    eta: None is T = 1; a number is T = |w| + eta, elementwise, as in
      `perturbations.asam`. With eta = 0 sharpness does not change where a
      factor moves from one layer to the next, as with ReLU it may.
  """

  rho: float
  p: float = 2.0
  eta: float | None = None

  def check(self) -> None:
    """Refuses what is no ball.

    Raises:
      ValueError: a value is not allowed.
    """
    if self.p not in (2, math.inf):
      raise ValueError(f'p is {self.p}; a ball has p = 2 or p = inf')
    self.perturbation(self.rho)

  def perturbation(self, rho: types.Scalar) -> types.Perturbation:
    """Returns the step of steepest ascent of a length."""
    if self.eta is None:
      return perturbations.lp(rho, self.p)
    return perturbations.asam(rho, self.eta, self.p)

  def stretch(self, params: types.Params) -> types.PyTree:
    """Returns T, a tree like the parameters."""
    if self.eta is None:
      return jax.tree.map(jnp.ones_like, params)
    eta = self.eta
    return jax.tree.map(lambda w: jnp.abs(w) + eta, params)

  def project(
    self, epsilon: types.PyTree, params: types.Params
  ) -> types.PyTree:
    """Returns the nearest point of the ball, in its own coordinates."""
    scales = self.stretch(params)
    if self.p == math.inf:
      return jax.tree.map(
        lambda e, t: jnp.clip(e, -self.rho * t, self.rho * t), epsilon, scales
      )
    norm = tree.norm(jax.tree.map(_divide, epsilon, scales))
    factor = jnp.where(norm > self.rho, self.rho / norm, 1)
    return jax.tree.map(lambda e: factor * e, epsilon)

  def draw(self, key: jax.Array, params: types.Params) -> types.PyTree:
    """Returns a random point of the sphere, in a Gaussian's direction."""
    scales = self.stretch(params)
    leaves, structure = jax.tree.flatten(scales)
    keys = jax.random.split(key, len(leaves))
    noise = jax.tree.unflatten(
      structure,
      [
        jax.random.normal(
          k, leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32)
        )
        for k, leaf in zip(keys, leaves, strict=True)
      ],
    )
    if self.p == math.inf:
      largest = [jnp.max(jnp.abs(x)) for x in jax.tree.leaves(noise)]
      length = jnp.stack(largest).max()
    else:
      length = tree.norm(noise)
    return jax.tree.map(lambda z, t: self.rho / length * z * t, noise, scales)


class Sharpness(NamedTuple):
  """A sharpness, in the units of the loss.

  Attributes:
    mean: over the groups.
    standard_error: of the mean over the groups; NaN for a single group.
    groups: float64 `[num_groups]`.
  """

  mean: float
  standard_error: float
  groups: np.ndarray


Groups = Iterable[objective_lib.Batches]


def worst_case(
  objective: objective_lib.Objective,
  params: types.Params,
  groups: Groups,
  ball: Ball,
  *,
  steps: int = 1,
  restarts: int = 1,
  seed: int = 0,
  unit: units.Unit = units.compute,
) -> Sharpness:
  """Returns the m-sharpness by gradient ascent.

  One step and one start are the paper's measure, and SAM's perturbation. More
  steps are projected ascent: step t of n is of length rho (n - t) / n, so that
  the first is the paper's, and the highest point on the way counts: the result
  is at least that of one step. Further starts are random points of the sphere.

  Args:
    objective: the loss.
    params: w.
    groups: the batches of each group of m examples.
    ball: where to look.
    steps: gradients per start.
    restarts: starts: the first is w.
    seed: of the further starts.
    unit: see `units`; a piece is a group.

  Raises:
    ValueError: there are no groups, a number is not allowed, or a loss is not
      finite.
  """
  checks.positive(steps=steps, restarts=restarts)
  checks.params(params)
  climb = _Ascent(ball, steps)

  def rise(index: int, group: objective_lib.Objective) -> float:
    start = jax.tree.map(jnp.zeros_like, placed)
    base, highest = climb(group, placed, start)
    for restart in range(1, restarts):
      key = _key(seed, index, restart)
      # A random start is a perturbation itself.
      found = climb(group, placed, climb.draw(key, placed))
      highest = float(np.max([highest, *found]))  # a NaN stays
    return highest - base

  placed = objective.place(params)
  return _over_groups(objective, groups, rise, 'worst', unit)


def average_case(
  objective: objective_lib.Objective,
  params: types.Params,
  groups: Groups,
  ball: Ball,
  *,
  num_samples: int = 1,
  seed: int = 0,
  unit: units.Unit = units.compute,
) -> Sharpness:
  """Returns the mean rise of the loss in random directions.

  Args:
    objective: the loss.
    params: w.
    groups: the batches of each group; each gets directions of its own.
    ball: its sphere is where the perturbed parameters lie: as far away as the
      worst case, in the direction of a Gaussian.
    num_samples: directions per group.
    seed: of the directions.
    unit: see `units`; a piece is a group.

  Raises:
    ValueError: there are no groups, a number is not allowed, or a loss is not
      finite.
  """
  ball.check()
  checks.positive(num_samples=num_samples)
  checks.params(params)
  placed = objective.place(params)
  draw = jax.jit(ball.draw)

  def rise(index: int, group: objective_lib.Objective) -> float:
    base = group.value(placed)
    moved = [
      group.value(_add(placed, draw(_key(seed, index, i), placed)))
      for i in range(num_samples)
    ]
    return float(np.mean(moved)) - base

  return _over_groups(objective, groups, rise, 'average', unit)


class _Ascent:
  """Projected gradient ascent from a start within a ball."""

  def __init__(self, ball: Ball, steps: int) -> None:
    """Compiles the geometry of a ball."""
    ball.check()
    self.draw = jax.jit(ball.draw)
    self._step = jax.jit(functools.partial(_step, ball))
    self._lengths = [ball.rho * (steps - t) / steps for t in range(steps)]

  def __call__(
    self,
    group: objective_lib.Objective,
    params: types.Params,
    epsilon: types.PyTree,
  ) -> tuple[float, float]:
    """Returns the loss at the start and the highest one after it."""
    values = []
    for length in self._lengths:
      value, grads = group.value_and_grad(_add(params, epsilon))
      values.append(value)
      epsilon = self._step(length, epsilon, grads, params)
    values.append(group.value(_add(params, epsilon)))
    # The start is left out: the paper's one step is taken as it is, even if it
    # leads downhill.
    return values[0], float(np.max(values[1:]))


def _step(
  ball: Ball,
  length: jax.Array,
  epsilon: types.PyTree,
  grads: types.Grads,
  params: types.Params,
) -> types.PyTree:
  """Returns epsilon after a step uphill, and back into the ball."""
  step = ball.perturbation(length)(grads, params)
  return ball.project(_add(epsilon, step), params)


def _group(
  objective: objective_lib.Objective, index: int, batches: objective_lib.Batches
) -> objective_lib.Objective:
  """Returns the objective of a group.

  Raises:
    ValueError: the group is no collection of batches.
  """
  try:
    return objective.over(batches)
  except ValueError as error:
    raise ValueError(
      f'groups has a list with the batches of each group, [[batch], ...], and '
      f'in group {index}, {error}'
    ) from error


def _over_groups(
  objective: objective_lib.Objective,
  groups: Groups,
  rise: Callable[[int, objective_lib.Objective], float],
  name: str,
  unit: units.Unit,
) -> Sharpness:
  """Returns the mean of a rise over the groups."""
  checks.groups(groups)

  def measure(index: int, batches: objective_lib.Batches) -> units.Result:
    found = rise(index, _group(objective, index, batches))
    if not math.isfinite(found):
      raise ValueError(
        f'the loss of group {index} rises by {found}: the loss, or the '
        'parameters, are NaN, infinite or too large'
      )
    return {'rise': np.array(found)}

  found = [
    float(unit(f'{name}-{i}', functools.partial(measure, i, batches))['rise'])
    for i, batches in enumerate(groups)
  ]
  if not found:
    raise ValueError('there are no groups')
  error = np.std(found, ddof=1) / len(found) ** 0.5 if found[1:] else np.nan
  return Sharpness(float(np.mean(found)), float(error), np.array(found))


def _key(seed: int, index: int, draw: int) -> jax.Array:
  """Returns the key of a random point."""
  key = jax.random.fold_in(keys.make(seed), index)
  return jax.random.fold_in(key, draw)


def _divide(x: jax.Array, y: jax.Array) -> jax.Array:
  """Returns x / y, and 0 where nothing may move."""
  return jnp.where(y == 0, 0, x / jnp.where(y == 0, 1, y))


@jax.jit
def _add(a: types.PyTree, b: types.PyTree) -> types.PyTree:
  """Adds two trees, in the dtype of the first."""
  return jax.tree.map(lambda x, y: (x + y).astype(x.dtype), a, b)

"""ESAM: some of the weights are perturbed, some of the examples followed."""

from typing import Unpack

import jax
import jax.numpy as jnp

from sam_jax import tree, types
from sam_jax.methods import base, parts, registry
from sam_jax.methods.axes import Unsampled, create
from sam_jax.methods.interface import Context


@parts.MASKS.register('bernoulli')
class Bernoulli(parts.Mask):
  """Each number with a probability, divided by it; drawn anew by each group."""

  applies_later = True

  def __init__(self, probability: float) -> None:
    """Takes the probability.

    Raises:
      ValueError: it is not in (0, 1].
    """
    if not 0 < probability <= 1:
      raise ValueError(
        f'beta is {probability}; it is the probability with which a number is '
        'perturbed: give a number in (0, 1]'
      )
    self._probability = probability

  def __call__(
    self, memory: types.PyTree, epsilon: types.PyTree, ctx: Context
  ) -> types.PyTree:
    """Returns the perturbation of what is drawn, longer by 1 / probability."""
    del memory
    if self._probability == 1:
      return epsilon
    # The key is the group's: all devices that share the group draw the same.
    key = jax.random.fold_in(ctx.get('key'), 0xE5A)
    found, structure = jax.tree.flatten(epsilon)
    masked = [
      self._masked(jax.random.fold_in(key, i), e) for i, e in enumerate(found)
    ]
    return jax.tree.unflatten(structure, masked)

  def _masked(self, key: jax.Array, epsilon: jax.Array) -> jax.Array:
    """Returns a leaf of which some is left."""
    is_live = jax.random.bernoulli(key, self._probability, epsilon.shape)
    if tree.is_cut(epsilon):
      is_live = jax.sharding.reshard(is_live, jax.typeof(epsilon).sharding)
    longer = tree.scale(jnp.float32(1 / self._probability), epsilon)
    return jnp.where(is_live, longer, jnp.zeros_like(longer))


@registry.register('esam', fixes=['mask'])
def esam(
  rho: float = 0.05,
  beta: float = 0.6,
  descent_share: float = 0.5,
  **axes: Unpack[Unsampled],
) -> base.Method:
  r"""Returns Efficient SAM: fewer weights, and then fewer examples.

  .. math::
    \epsilon = \frac{\rho}{\beta}\, m \odot g / \|g\|_2, \quad
    m_i \sim \mathrm{Bernoulli}(\beta), \qquad
    \tilde g = \nabla L_{B^+}(w + \epsilon)

  where B+ is the share gamma of the examples whose losses rise most from w to
  w + epsilon. A gradient of all examples, a forward pass of all, and a gradient
  of B+: 1 + 1/3 + gamma in a step. With beta = 1 and descent_share = 1 it is
  SAM (and the forward pass is left out), with rho = 0 it is SGD. With the
  defaults it saves a twelfth of SAM's cost: the second forward pass takes most
  of what the smaller gradient saves. In a loop of one's own, `value_and_grad`
  needs a `key`, and has no examples: leave descent_share at 1.

  Training logs over how many examples the metrics of a step are means, as
  `metric_examples` and `perturbed_metric_examples`; those of the perturbed pass
  are of B+.

  Args:
    rho: radius of the perturbation, in units of the parameters. The authors
      have 0.05 for ResNet-18, 0.1 for WRN-28-10 and 0.2 for PyramidNet.
    beta: probability with which a number is perturbed, in (0, 1]; the authors
      have 0.6 (0.5 for PyramidNet).
    descent_share: gamma, share of the examples of each microbatch, in (0, 1],
      rounded up; the authors have 0.5.
    **axes: other choices on the axes, see `Unsampled`.

  Raises:
    ValueError: a value is out of range; or, when called, descent_share is below
      1 and the loss is a function of parameters alone, which has no examples.

  The chosen examples go through the network by themselves: BatchNorm sees them
  alone, and their dropout masks are others than when they were chosen.

  Source: Du et al. 2021, algorithm 1. Differs from the authors' code, which
  draws whole tensors, and keeps examples whose rise is strictly above the k-th
  largest: one fewer, and none where all rise alike. Here each number is drawn,
  as in the paper, and exactly the share is kept.
  """
  return create(rho, axes, mask=Bernoulli(beta), descent_share=descent_share)

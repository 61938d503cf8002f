"""K-SAM: SAM of the examples with the largest losses."""

from typing import Unpack

from sam_jax.methods import base, registry
from sam_jax.methods.axes import Unsampled, create


@registry.register('k_sam')
def k_sam(
  rho: float = 0.05, loss_share: float = 0.5, **axes: Unpack[Unsampled]
) -> base.Method:
  r"""Returns K-SAM: both gradients are those of the hardest examples.

  .. math::
    M = \text{the } k \text{ examples with the largest } l(w; x), \qquad
    \tilde g = \nabla L_M(w + \rho\, g_M / \|g_M\|_2), \quad
    g_M = \nabla L_M(w)

  One forward pass of all examples, and two gradients of M: 1/3 + 2 k / m in a
  step, m being the examples that share one perturbation. With loss_share = 1 it
  is SAM (and the forward pass is left out), with rho = 0 it is SGD. With a
  third of the examples it costs what SGD costs. Avoid it with label noise:
  wrong labels have the largest losses.

  Value, metrics and BatchNorm statistics are those of M; training logs over how
  many examples the metrics of a step are means, as `metric_examples`. Where
  another choice makes steps without perturbation, these are of all examples.

  Args:
    rho: radius of the perturbation, in units of the parameters, as for `sam`.
    loss_share: k / m, share of the examples of each microbatch, in (0, 1],
      rounded up. The default is ours: the paper's k could not be verified.
    **axes: other choices on the axes, see `Unsampled`.

  Raises:
    ValueError: a value is out of range; or, when called, the loss is a function
      of parameters alone, which has no examples.

  The chosen examples go through the network by themselves: BatchNorm sees them
  alone, and their dropout masks are others than when they were chosen.

  Source: Ni et al. 2022, abstract and section 3. Differs from the paper: the
  examples are chosen in each microbatch.
  """
  return create(rho, axes, loss_share=loss_share)

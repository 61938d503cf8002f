r"""Perturbations: how far, and in which direction, SAM climbs.

A perturbation is a pure function `(grads, params) -> epsilon`; each idea has a
file. Most are homogeneous of degree zero in the gradient: its length does not
matter, only its direction, as long as its squares are float32 numbers.

- degree zero: `l2`, `lp`, `random`, `asam`, `layerwise`, `samson`, `zsharp`;
- degree one: `unnormalised`;
- none: `unified`, `fisher`, `monge`, `loss_equated`, for which a loss in other
  units is another perturbation;
- that of the perturbation they are given: `masked`, `centralised`.

All that climb share these guarantees, by gradient:

- zero everywhere: epsilon is zero, never NaN (also when differentiated);
- NaN somewhere: NaN at least there, so that the step is seen to fail;
- less exact than float32: epsilon has that dtype; norms are accumulated in
  float32;
- complex leaf: epsilon is along the conjugate, because JAX's gradient of a real
  loss is the conjugate of the way uphill;
- `None` leaf: `None`, that parameter is not perturbed.

`rho` may be a traced value, so that a schedule costs no recompilation.

Inside `jax.shard_map`, with parameters that are split over a mesh axis, each
device sees its slices alone. `axis_name` names that axis, or several: norms are
then those of all slices, and leaves that are whole on every device count once.
A perturbation of your own that sums over axes itself, or has nothing to sum,
has an attribute `axis_name`, a tuple of their names.

Differs from the official release: `dual_vector` there has no guard against a
zero gradient (NaN parameters) and computes the norm in the leaves' dtype.
"""

from sam_jax.perturbations import masks
from sam_jax.perturbations._asam import adaptive, asam
from sam_jax.perturbations._base import AxisName, axes_of, chosen, none
from sam_jax.perturbations._centralised import centralise, centralised
from sam_jax.perturbations._fisher import fisher
from sam_jax.perturbations._layerwise import layerwise
from sam_jax.perturbations._loss_equated import loss_equated
from sam_jax.perturbations._masked import masked
from sam_jax.perturbations._monge import monge
from sam_jax.perturbations._norms import l2, lp
from sam_jax.perturbations._random import random
from sam_jax.perturbations._samson import samson
from sam_jax.perturbations._unnormalised import unified, unnormalised
from sam_jax.perturbations._zsharp import zsharp

__all__ = [
  'AxisName',
  'adaptive',
  'asam',
  'axes_of',
  'centralise',
  'centralised',
  'chosen',
  'fisher',
  'l2',
  'layerwise',
  'loss_equated',
  'lp',
  'masked',
  'masks',
  'monge',
  'none',
  'random',
  'samson',
  'unified',
  'unnormalised',
  'zsharp',
]

"""Methods: how the gradient of a step is obtained, from SGD to SAM's family.

There is one file for each idea, `_sam.py`, `_looksam.py`, ...: its formula, its
cost, its defaults and where they are from. A method is used by its name in a
config, or in a training loop of one's own:

    method = sam_jax.methods.looksam(rho=0.1, every=3, alpha=0.7)
    state = method.init(params)
    grad_fn = jax.jit(method.value_and_grad(loss_fn))
    loss, grads, state = grad_fn(state, params, batch)
"""

from sam_jax.methods._asam import asam
from sam_jax.methods._dgsam import dgsam
from sam_jax.methods._disam import disam
from sam_jax.methods._focal_sam import focal_sam
from sam_jax.methods._functional_sam import functional_sam
from sam_jax.methods._gsam import gsam
from sam_jax.methods._imb_sam import imb_sam
from sam_jax.methods._looksam import looksam
from sam_jax.methods._mesa import mesa
from sam_jax.methods._random import random
from sam_jax.methods._sam import sam
from sam_jax.methods._sgd import sgd
from sam_jax.methods.axes import Axes
from sam_jax.methods.base import Method, either
from sam_jax.methods.interface import (
  Context,
  GroupResult,
  LossesFn,
  Problem,
  State,
  momentum_of,
)
from sam_jax.methods.perturbed import Perturbed
from sam_jax.methods.registry import (
  create,
  defaults,
  names,
  options,
  register,
)

__all__ = [
  'Axes',
  'Context',
  'GroupResult',
  'LossesFn',
  'Method',
  'Perturbed',
  'Problem',
  'State',
  'asam',
  'create',
  'defaults',
  'dgsam',
  'disam',
  'either',
  'focal_sam',
  'functional_sam',
  'gsam',
  'imb_sam',
  'looksam',
  'mesa',
  'momentum_of',
  'names',
  'options',
  'random',
  'register',
  'sam',
  'sgd',
]

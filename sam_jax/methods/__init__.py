"""Methods: how the gradient of a step is obtained, from SGD to SAM's family.

There is one file for each idea, `_sam.py`, `_looksam.py`, ...: its formula, its
cost, its defaults and where they are from. A method is used by its name in a
config, or in a training loop of one's own:

    method = sam_jax.methods.looksam(rho=0.1, every=3, alpha=0.7)
    state = method.init(params)
    grad_fn = jax.jit(method.value_and_grad(loss_fn))
    loss, grads, state = grad_fn(state, params, batch)
"""

from sam_jax.methods._ae_sam import ae_sam
from sam_jax.methods._asam import asam
from sam_jax.methods._async_sam import async_sam
from sam_jax.methods._cr_sam import cr_sam
from sam_jax.methods._dgsam import dgsam
from sam_jax.methods._disam import disam
from sam_jax.methods._eigen_sam import eigen_sam
from sam_jax.methods._esam import esam
from sam_jax.methods._fisher_mask_sam import fisher_mask_sam
from sam_jax.methods._fisher_sam import fisher_sam
from sam_jax.methods._focal_sam import focal_sam
from sam_jax.methods._friendly_sam import friendly_sam
from sam_jax.methods._functional_sam import functional_sam
from sam_jax.methods._gcsam import gcsam
from sam_jax.methods._gsam import gsam
from sam_jax.methods._imb_sam import imb_sam
from sam_jax.methods._k_sam import k_sam
from sam_jax.methods._late_sam import late_sam
from sam_jax.methods._layerwise import layerwise_sam
from sam_jax.methods._le_sam import le_sam
from sam_jax.methods._looksam import looksam
from sam_jax.methods._mesa import mesa
from sam_jax.methods._monge_sam import monge_sam
from sam_jax.methods._msam import msam
from sam_jax.methods._quarter_sam import quarter_sam
from sam_jax.methods._random import random
from sam_jax.methods._s2sam import s2sam
from sam_jax.methods._saf import saf
from sam_jax.methods._sagm import sagm
from sam_jax.methods._sam import sam
from sam_jax.methods._sam_k import sam_k
from sam_jax.methods._sam_on import sam_on
from sam_jax.methods._sam_sps import sam_sps
from sam_jax.methods._sampa import sampa
from sam_jax.methods._samson import samson
from sam_jax.methods._saner import saner
from sam_jax.methods._sgd import sgd
from sam_jax.methods._ss_sam import ss_sam
from sam_jax.methods._ssam_d import ssam_d
from sam_jax.methods._ssam_f import ssam_f
from sam_jax.methods._stable_sam import stable_sam
from sam_jax.methods._unified import unified_sam, usam
from sam_jax.methods._vasso import vasso
from sam_jax.methods._wsam import wsam
from sam_jax.methods._xsam import xsam
from sam_jax.methods._zsharp import zsharp
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
from sam_jax.methods.registry import create, defaults, names, options, register

__all__ = [
  'Axes',
  'Context',
  'GroupResult',
  'LossesFn',
  'Method',
  'Perturbed',
  'Problem',
  'State',
  'ae_sam',
  'asam',
  'async_sam',
  'cr_sam',
  'create',
  'defaults',
  'dgsam',
  'disam',
  'eigen_sam',
  'either',
  'esam',
  'fisher_mask_sam',
  'fisher_sam',
  'focal_sam',
  'friendly_sam',
  'functional_sam',
  'gcsam',
  'gsam',
  'imb_sam',
  'k_sam',
  'late_sam',
  'layerwise_sam',
  'le_sam',
  'looksam',
  'mesa',
  'momentum_of',
  'monge_sam',
  'msam',
  'names',
  'options',
  'quarter_sam',
  'random',
  'register',
  's2sam',
  'saf',
  'sagm',
  'sam',
  'sam_k',
  'sam_on',
  'sam_sps',
  'sampa',
  'samson',
  'saner',
  'sgd',
  'ss_sam',
  'ssam_d',
  'ssam_f',
  'stable_sam',
  'unified_sam',
  'usam',
  'vasso',
  'wsam',
  'xsam',
  'zsharp',
]

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sam_jax
from sam_jax import perturbations

masks = perturbations.masks

_NORM = {'scale': 1.0, 'bias': 2.0}
_DENSE = {'kernel': 3.0, 'bias': 4.0}
PARAMS = {
  'Embed_0': {'embedding': 5.0},
  'stage1_block0': {'conv1': {'kernel': 6.0}, 'bn1': _NORM, 'bnb': _DENSE},
  'bn_init': _NORM,
  'Block_0': {'init_bn': _NORM, 'depthwise': {'depthwise_kernel': 1.0}},
  'pre-pool-bn': _NORM,
  'LayerNorm_0': _NORM,
  'batch_normalization': _NORM,
  'ln_f': _NORM,
  'LN': {'scale': 7.0},
  'lngate': _DENSE,
  'NormalDense_0': _DENSE,
  'equinox_norm': {'weight': 8.0},
  'torch': {'weight': 9.0},
  'pos_embedding': 10.0,
}


def _names(mask, params=PARAMS):
  chosen = mask(params)
  assert jax.tree.structure(chosen) == jax.tree.structure(params)
  paths = jax.tree_util.tree_leaves_with_path(chosen)
  return {
    jax.tree_util.keystr(path, simple=True, separator='/')
    for path, is_chosen in paths
    if is_chosen is True
  }


def test_normalisation_is_scale_and_bias_of_modules_with_such_a_name():
  layers = 'stage1_block0/bn1 bn_init Block_0/init_bn pre-pool-bn '
  layers += 'LayerNorm_0 batch_normalization ln_f'
  expected = {f'{m}/{p}' for m in layers.split() for p in ('scale', 'bias')}
  expected |= {'LN/scale', 'equinox_norm/weight'}
  assert _names(masks.normalisation) == expected


def test_kernels_are_what_is_called_so_and_weights_have_scales_too():
  kernels = {'Embed_0/embedding', 'stage1_block0/conv1/kernel', 'torch/weight'}
  kernels |= {'stage1_block0/bnb/kernel', 'lngate/kernel'}
  kernels |= {'NormalDense_0/kernel', 'Block_0/depthwise/depthwise_kernel'}
  assert _names(masks.kernels) == kernels
  not_weights = {n for n in _names(masks.matching('')) if n.endswith('bias')}
  not_weights |= {'pos_embedding'}
  assert _names(masks.weights) == _names(masks.matching('')) - not_weights


def test_a_pattern_is_searched_in_the_whole_path():
  assert _names(masks.matching(r'block0/.*kernel$')) == {
    'stage1_block0/conv1/kernel',
    'stage1_block0/bnb/kernel',
  }
  with pytest.raises(ValueError, match=r"^'\(' is no regular expression: "):
    masks.matching('(')


@pytest.mark.parametrize(
  ('mask', 'what'),
  [
    (masks.matching('head'), "matches 'head'"),
    (masks.normalisation, 'is the scale or the bias of a norm'),
    (masks.kernels, 'is a kernel or an embedding'),
    (masks.weights, 'is a kernel, an embedding or a scale'),
  ],
)
def test_a_mask_of_nothing_is_refused_and_says_what_there_is(mask, what):
  params = {'dense': {'bias': jnp.ones(2)}, 'other': [jnp.ones(1)]}
  with pytest.raises(ValueError) as error:
    sam_jax.masked(sam_jax.l2(0.1), mask)(params, params)
  text = str(error.value)
  assert text.startswith(f'no parameter {what}') and '\n' not in text
  assert text.endswith('the parameters are: dense/bias, other/0')


def test_a_scale_of_an_unknown_module_is_refused():
  params = {'LayerNorm_0': _NORM, 'Mystery_0': {'scale': 1.0}}
  with pytest.raises(ValueError, match=r"^'Mystery_0/scale' may be .*matching"):
    masks.normalisation(params)


def test_a_long_list_of_names_is_cut():
  params = {f'layer_{i}': 1.0 for i in range(1000)}
  with pytest.raises(ValueError) as error:
    masks.kernels(params)
  assert 400 < len(str(error.value)) < 600


def test_sam_on_perturbs_the_normalisation_of_a_module_of_nnx():
  params = nnx.state(nnx.BatchNorm(3, rngs=nnx.Rngs(0)), nnx.Param)
  params = {'norm': params, 'dense': {'kernel': jnp.ones(3)}}
  grads = jax.tree.map(lambda p: jnp.array([3.0, 0.0, 4.0]), params)
  epsilon = sam_jax.masked(sam_jax.l2(1.0), masks.normalisation)(grads, params)
  assert not epsilon['dense']['kernel'].any()
  for e in jax.tree.leaves(epsilon['norm']):
    np.testing.assert_allclose(e, np.array([3, 0, 4]) / 50**0.5, rtol=1e-6)

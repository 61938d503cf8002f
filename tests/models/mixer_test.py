"""MLP-Mixer: sizes, the forward pass, what is refused."""

import jax
import numpy as np
import pytest
from flax import traverse_util

from sam_jax import models
from tests import vit_files, zoo

_SIZES = {
  'patch': vit_files.PATCH,
  'width': vit_files.WIDTH,
  'depth': vit_files.DEPTH,
  'tokens_mlp_width': vit_files.TOKENS_MLP,
  'channels_mlp_width': vit_files.MLP,
}


def _model(**fields):
  return models.create('mixer', **{'num_classes': 5} | _SIZES | fields)


def _images():
  rng = np.random.default_rng(1)
  return rng.normal(size=(3, 8, 8, 3)).astype(np.float32)


def _params():
  return traverse_util.unflatten_dict(vit_files.mixer(), sep='/')


# Tolstikhin et al. 2021, table 1: 18, 19, 59 and 60 M.
@pytest.mark.parametrize(
  ('name', 'parameters'),
  [
    ('Mixer-S/16', 18_528_264),
    ('Mixer-S/32', 19_104_624),
    ('Mixer-B/16', 59_880_472),
    ('Mixer-B/32', 60_293_428),
  ],
)
def test_the_sizes_are_those_of_the_literature(name, parameters):
  model = models.create(name, num_classes=1000)
  found = zoo.shapes(model, (1, 224, 224, 3))
  assert set(found) == {'params'}
  assert zoo.size(found['params']) == parameters


def test_the_forward_pass_equals_that_of_numpy():
  expected = vit_files.mixer_logits(vit_files.mixer(), _images())
  assert np.std(expected) > 0.1
  found = zoo.predict(_model(), {'params': _params()}, _images())
  np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def test_a_checkpoint_has_the_names_and_shapes_of_the_model():
  found = zoo.shapes(_model(), (1, 8, 8, 3))['params']
  assert found == {k: v.shape for k, v in vit_files.mixer().items()}


@pytest.mark.parametrize('remat', [False, True])
def test_blocks_are_computed_again_if_asked(remat):
  model = _model(remat=remat)

  def loss(params):
    return model.apply({'params': params}, _images(), train=True).sum()

  assert ('remat' in str(jax.make_jaxpr(loss)(_params()))) == remat


def test_patches_that_do_not_divide_the_images_are_refused():
  message = '^patches of 4x4 pixels do not divide images of 7x8; choose'
  with pytest.raises(ValueError, match=message):
    zoo.shapes(_model(), (1, 7, 8, 3))

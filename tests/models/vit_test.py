"""Vision transformers: sizes, the forward pass, what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from sam_jax import models
from sam_jax.models import summary, vit
from tests import reference, tiny, vit_files, zoo

_SIZES = {
  'patch': vit_files.PATCH,
  'width': vit_files.WIDTH,
  'depth': vit_files.DEPTH,
  'heads': vit_files.HEADS,
  'mlp_width': vit_files.MLP,
}


def _model(**fields):
  return models.create('vit', **{'num_classes': 5} | _SIZES | fields)


def _images(side=8, rows=3):
  rng = np.random.default_rng(1)
  return rng.normal(size=(rows, side, side, 3)).astype(np.float32)


# With 1,000 classes at 224 pixels. Steiner et al. 2021, table 3: 5, 22, 86 and
# 307 M; the numbers themselves are those of the published checkpoints.
@pytest.mark.parametrize(
  ('name', 'parameters'),
  [
    ('ViT-Ti/16', 5_717_416),
    ('ViT-S/16', 22_050_664),
    ('ViT-B/16', 86_567_656),
    ('ViT-B/32', 88_224_232),
    ('ViT-L/16', 304_326_632),
  ],
)
def test_the_sizes_are_those_of_the_literature(name, parameters):
  model = models.create(name, num_classes=1000)
  found = zoo.shapes(model, (1, 224, 224, 3))
  assert set(found) == {'params'}
  assert zoo.size(found['params']) == parameters
  assert summary.default_size(name, model) == 224


@pytest.mark.parametrize('pre_logits', [False, True])
def test_the_forward_pass_equals_that_of_numpy(pre_logits):
  arrays = vit_files.vit(pre_logits=pre_logits)
  model = _model(representation_size=vit_files.WIDTH if pre_logits else None)
  expected = vit_files.vit_logits(arrays, _images())
  assert np.std(expected) > 0.1
  params = traverse_util.unflatten_dict(arrays, sep='/')
  found = zoo.predict(model, {'params': params}, _images())
  np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def test_a_checkpoint_has_the_names_and_shapes_of_the_model():
  found = zoo.shapes(_model(), (1, 8, 8, 3))['params']
  assert found == {k: v.shape for k, v in vit_files.vit().items()}


def test_fixed_positions_and_the_mean_have_no_parameters():
  model = _model(classifier='gap', positions='sincos2d')
  found = zoo.shapes(model, (1, 8, 8, 3))['params']
  left_out = {'cls', 'Transformer/posembed_input/pos_embedding'}
  assert found.keys() == vit_files.vit().keys() - left_out


def test_fixed_positions_tell_row_from_column():
  found = np.asarray(vit.sincos_2d(2, 3, 8)[0]).reshape(2, 3, 4, 2)
  waves = [np.sin, np.cos]
  for row, column in np.ndindex(2, 3):
    expected = [
      [wave(place), wave(place / 10_000)]
      for place in (column, row)
      for wave in waves
    ]
    np.testing.assert_allclose(found[row, column], expected, atol=1e-6)


@pytest.mark.slow
def test_blocks_that_are_computed_again_give_the_same_gradients():
  params = traverse_util.unflatten_dict(vit_files.vit(), sep='/')
  del params['Transformer']['encoderblock_1']

  def gradients(remat):
    model = _model(remat=remat, dropout_rate=0.2, depth=1)
    rngs = {'dropout': jax.random.key(3)}

    def loss(params):
      logits = model.apply({'params': params}, _images(), train=True, rngs=rngs)
      return jax.nn.logsumexp(logits, axis=-1).mean()

    assert ('remat' in str(jax.make_jaxpr(loss)(params))) == remat
    return reference.flatten(jax.jit(jax.grad(loss))(params))

  plain, again = gradients(remat=False), gradients(remat=True)
  assert plain.keys() == again.keys()
  for name, expected in plain.items():
    np.testing.assert_allclose(
      again[name], expected, rtol=1e-4, atol=1e-6, err_msg=name
    )


def test_a_new_classifier_says_its_bias():
  model = _model(head_bias=-10.0, classifier='gap', depth=1)
  variables = zoo.initialise(model, _images())
  np.testing.assert_array_equal(
    zoo.predict(model, variables, _images()), np.full((3, 5), -10.0)
  )


def test_bfloat16_goes_through():
  model = _model(positions='sincos2d')
  variables = zoo.abstract_variables(model, (1, 8, 8, 3))
  half = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), variables
  )
  images = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.bfloat16)
  apply = functools.partial(model.apply, train=False)
  assert jax.eval_shape(apply, half, images).dtype == jnp.bfloat16


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'heads': 3}, '3 heads do not divide a width of 8'),
    ({'patch': 0}, 'patch must be at least 1, got 0'),
    ({'width': 6, 'positions': 'sincos2d'}, 'a multiple of 4 .* got 6'),
    ({'classifier': 'map'}, "unknown classifier 'map'; known: token, gap"),
    ({'positions': 'rotary'}, "unknown positions 'rotary'"),
    ({'attention': 'flash'}, "unknown attention 'flash'"),
    ({'dropout_rate': 1.0}, 'dropout_rate must be in'),
    ({'norm': 'batch'}, "takes no argument 'norm'"),
  ],
)
def test_what_cannot_be_built_is_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    _model(**fields)


def test_a_name_settles_the_sizes():
  with pytest.raises(ValueError, match='settles width=192; do not give width'):
    models.create('ViT-Ti/4', num_classes=10, width=8)


def test_patches_that_do_not_divide_the_images_are_refused():
  message = '^patches of 4x4 pixels do not divide images of 28x30; choose'
  with pytest.raises(ValueError, match=message):
    zoo.shapes(_model(), (1, 28, 30, 3))


@pytest.mark.slow
def test_it_is_trained_by_a_config(monkeypatch, tmp_path):
  tiny.use_devices(monkeypatch, 2)
  fields = {f'model.{name}': size for name, size in _SIZES.items()}
  no_cnn = ('features', 'hidden', 'norm', 'activation')
  fields |= {f'model.{name}': None for name in no_cnn}
  fields |= {'model.name': 'vit', 'model.depth': 1, 'model.remat': True}
  fields |= {'m': 8, 'microbatch_size': 8, 'num_steps': 2}
  fields |= {'optimizer.name': 'adamw', 'checkpoint.every_steps': 1}
  fields |= {'weight_decay.place': 'decoupled', 'task.loss': 'sigmoid'}
  tiny.train(tmp_path, **fields)
  first, last = (
    reference.flatten(tiny.state(tmp_path, step)['params']) for step in (1, 2)
  )
  assert [k for k in first if np.array_equal(first[k], last[k])] == []

"""Pretrained variables in place of a model's own."""

import copy
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax import models
from sam_jax.runs import initialization, legacy, loading, pretrained
from tests import legacy_files, reference, tiny

CLASSES = 4


def _model(**shapes):
  """The variables of a model that `legacy_files.variables` fit, all zero."""
  flat = reference.flatten(legacy_files.variables(0))
  zeros = {k: jnp.zeros(v.shape, v.dtype) for k, v in flat.items()}
  for name, shape in shapes.items():
    zeros[name.replace('.', '/')] = jnp.zeros(shape)
  return reference.unflatten(zeros)


def _fit(model, loaded=None, num_classes=CLASSES):
  loaded = legacy_files.variables(0) if loaded is None else loaded
  return pretrained.fit(model, loaded, source='S', num_classes=num_classes)


def _assert_equal(found, expected):
  found, expected = reference.flatten(found), reference.flatten(expected)
  assert found.keys() == expected.keys()
  for name, array in found.items():
    np.testing.assert_array_equal(array, expected[name], err_msg=name)


def _resized_head(num_classes):
  return {
    'params.Dense_1.kernel': (3, num_classes),
    'params.Dense_1.bias': (num_classes,),
  }


def test_what_fits_replaces_every_value():
  fitted = _fit(_model())
  assert fitted.new_head is None
  _assert_equal(fitted.variables, legacy_files.variables(0))


def test_the_values_take_the_dtype_of_the_model():
  model = jax.tree.map(lambda x: x.astype(jnp.bfloat16), _model())
  fitted = _fit(model)
  assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(fitted.variables))
  kernel = fitted.variables['params']['Dense_1']['kernel']
  expected = legacy_files.variables(0)['params']['Dense_1']['kernel']
  # bfloat16 has 8 significant bits.
  np.testing.assert_allclose(kernel.astype(np.float32), expected, rtol=2**-8)


@pytest.mark.parametrize('num_classes', [2, 10])
def test_the_classifier_of_other_classes_stays_the_models_own(num_classes):
  fitted = _fit(_model(**_resized_head(num_classes)), num_classes=num_classes)
  assert fitted.new_head == 'params/Dense_1'
  found = reference.flatten(fitted.variables)
  for name, expected in reference.flatten(legacy_files.variables(0)).items():
    if 'Dense_1' in name:
      assert found[name].shape[-1] == num_classes
      assert not found[name].any()
    else:
      np.testing.assert_array_equal(found[name], expected)


def test_a_classifier_without_bias_may_be_new_too():
  model = _model(**{'params.Dense_1.kernel': (3, 7)})
  loaded = legacy_files.variables(0)
  for tree in (model, loaded):
    del tree['params']['Dense_1']['bias']
  assert _fit(model, loaded, 7).new_head == 'params/Dense_1'


def test_shapes_are_enough_to_see_whether_it_fits():
  shapes = jax.eval_shape(lambda: _model(**_resized_head(10)))
  fitted = _fit(shapes, num_classes=10)
  kernel = fitted.variables['params']['Dense_1']['kernel']
  assert isinstance(kernel, jax.ShapeDtypeStruct)


def test_a_model_without_batch_norm_takes_weights_without():
  model, loaded = _model(), legacy_files.variables(0)
  del model['batch_stats']
  loaded['batch_stats'] = {}
  _assert_equal(_fit(model, loaded).variables, {'params': loaded['params']})


@pytest.mark.parametrize(
  ('model', 'num_classes', 'message'),
  [
    # A hidden layer is no classifier.
    (
      _resized_head(10),
      CLASSES,
      'params/Dense_1/bias is of another shape: needs [10], found [4] (of 7 '
      'arrays 2 of another shape, 0 missing, and 0 unexpected)',
    ),
    # Nor is a layer of which the input differs, or only the kernel.
    (
      {'params.Dense_1.kernel': (5, 7), 'params.Dense_1.bias': (7,)},
      7,
      'params/Dense_1/bias is of another shape: needs [7], found [4]',
    ),
    (
      {'params.Dense_1.kernel': (3, 7)},
      7,
      'params/Dense_1/kernel is of another shape: needs [3, 7], found [3, 4]',
    ),
    # Nor is a convolution.
    (
      {'params.Block_0.conv1.kernel': (1, 1, 2, 7)},
      7,
      'params/Block_0/conv1/kernel is of another shape: needs [1, 1, 2, 7]',
    ),
    (
      {'params.Block_0.more': (2, 5)},
      CLASSES,
      'params/Block_0/more is missing: needs [2, 5] (of 8 arrays 0 of another '
      'shape, 1 missing, and 0 unexpected)',
    ),
    # Parameters are named before statistics, and a new classifier not at all.
    (
      {'batch_stats.Block_0.bn.mean': (9,), 'params.Block_0.bn.scale': (9,)},
      CLASSES,
      'params/Block_0/bn/scale is of another shape: needs [9], found [3] (of '
      '7 arrays 2 of another shape',
    ),
    (
      _resized_head(10) | {'params.Out.bias': (9,)},
      10,
      'params/Out/bias is missing: needs [9] (of 6 arrays 0 of another',
    ),
  ],
)
def test_what_does_not_fit_is_one_line(model, num_classes, message):
  with pytest.raises(ValueError, match='^S does not fit the model') as raised:
    _fit(_model(**model), num_classes=num_classes)
  assert message in str(raised.value) and '\n' not in str(raised.value)


def test_what_the_model_lacks_is_unexpected():
  model = _model()
  del model['params']['Block_0']['bn']
  del model['batch_stats']
  with pytest.raises(ValueError) as raised:
    _fit(model)
  assert (
    'params/Block_0/bn/bias is unexpected: found [3] (of 3 arrays 0 of another '
    'shape, 0 missing, and 4 unexpected); choose the model'
  ) in str(raised.value)


def test_two_classifiers_of_other_classes_are_refused():
  loaded = legacy_files.variables(0)
  loaded['params']['Aux'] = copy.deepcopy(loaded['params']['Dense_1'])
  aux = {'params.Aux.kernel': (3, 10), 'params.Aux.bias': (10,)}
  model = _model(**_resized_head(10), **aux)
  with pytest.raises(ValueError, match='Aux/bias .* 4 of another shape'):
    _fit(model, loaded, 10)


def test_a_classifier_of_as_many_other_classes_is_new_if_it_is_clear():
  def dense(shape):
    return {'kernel': np.ones(shape), 'bias': np.ones(shape[-1:])}

  own = {'params': {'a': dense((3, 5)), 'b': dense((5, 4))}}
  loaded = jax.tree.map(np.zeros_like, own)
  fitted = pretrained.fit(
    own, loaded, source='S', num_classes=4, has_other_classes=True
  )
  assert fitted.new_head == 'params/b'
  assert fitted.variables['params']['b']['kernel'].all()
  assert not fitted.variables['params']['a']['kernel'].any()
  own['params']['a'] = dense((3, 4))
  with pytest.raises(ValueError, match='other classes.*2 have 4 outputs'):
    pretrained.fit(own, own, source='S', num_classes=4, has_other_classes=True)


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused(value):
  loaded = legacy_files.variables(0)
  loaded['batch_stats']['Block_0']['bn']['var'][1] = value
  with pytest.raises(ValueError, match='S is damaged: batch_stats/Block_0/bn/'):
    _fit(_model(), loaded)


@pytest.mark.slow
def test_a_run_directory_and_an_official_file_are_told_apart(tmp_path):
  tiny.train(tmp_path / 'run', num_steps=1)
  _assert_equal(
    pretrained.read(tmp_path / 'run'), loading.load(tmp_path / 'run').variables
  )
  file = tmp_path / 'checkpoint_3'
  content = legacy_files.training(legacy_files.variables(0))
  file.write_bytes(legacy_files.pack(content))
  _assert_equal(pretrained.read(tmp_path), legacy_files.variables(0))
  _assert_equal(pretrained.read(str(file)), legacy.read(file))


def test_it_says_what_was_loaded(tmp_path, capsys):
  file = tmp_path / 'f'
  content = legacy_files.pair(legacy_files.variables(0))
  file.write_bytes(legacy_files.pack(content))
  variables = pretrained.load(str(file), _model(), CLASSES)
  _assert_equal(variables, legacy_files.variables(0))
  pretrained.load(str(file), _model(**_resized_head(10)), 10)
  first, second = capsys.readouterr().out.splitlines()
  assert first == f'initialised from {file}: 7 arrays, 28 parameters'
  assert second == (
    f'initialised from {file}: 5 arrays, 12 parameters; classifier Dense_1 is '
    'new: 4 -> 10 classes'
  )


def test_the_official_file_fits_our_model_and_no_other():
  source = str(reference.path('official_checkpoint'))
  loaded = pretrained.read(source)

  def fit(name, num_classes):
    model = models.create(name, num_classes=num_classes)
    shapes = jax.eval_shape(
      lambda: initialization.init_variables(
        model, np.zeros((1, 32, 32, 3), np.float32), 0
      )
    )
    return pretrained.fit(
      shapes, loaded, source=source, num_classes=num_classes
    )

  fitted = fit('WideResnet_mini', 10)
  assert fitted.new_head is None
  _assert_equal(fitted.variables, loaded)
  assert fit('WideResnet_mini', 100).new_head == 'params/Dense_3'
  first = re.escape(
    'params/Dense_3/kernel is of another shape: needs [128, 10], found [64, 10]'
  )
  with pytest.raises(ValueError, match=first):
    fit('WideResnet16x2', 10)

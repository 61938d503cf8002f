"""Choices on the axes: by name, with arguments, and refused in one line."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sam_jax import methods, perturbations
from sam_jax.methods import choices

W = {'a': jnp.array([1.0, -2.0]), 'b': jnp.array([0.5])}


def _loss(params):
  return jnp.sum(params['a'] ** 2) + 3 * params['b'][0] ** 3


def _grads(method, **options):
  _, grads, _ = method.value_and_grad(_loss, **options)(method.init(W), W)
  return np.concatenate([grads['a'], grads['b']])


@pytest.fixture
def axis():
  axis = choices.Axis('metric')

  @axis.register('scaled')
  def scaled(factor: float = 2.0, power: int = 1):
    return factor**power

  return axis


@pytest.mark.parametrize(
  'text, expected',
  [
    ('scaled', 2),
    ('scaled()', 2),
    ('scaled(3)', 3),
    (' scaled(0.5, power=2) ', 0.25),
    ('scaled(factor=-1)', -1),
    ('scaled(inf)', np.inf),
  ],
)
def test_a_text_is_a_name_with_arguments(axis, text, expected):
  assert axis.create(text) == expected


def test_an_object_is_a_choice_as_it_is(axis):
  chosen = object()
  assert axis.create(chosen) is chosen


@pytest.mark.parametrize(
  'text, message',
  [
    ('scald', "unknown metric 'scald'; known: scaled.*did you mean 'scaled'"),
    ('scaled(', r"metric is 'scaled\('; give one of scaled, with arguments"),
    ('scaled(1)(2)', 'give one of scaled'),
    ('a.scaled', 'give one of scaled'),
    ('', 'give one of scaled'),
    (f'scaled({"(" * 5000}', 'give one of scaled'),
    ('scaled(word)', "factor is 'word'; it must be a number"),
    ('scaled(open("x"))', 'give one of scaled'),
    ('scaled(1, 2, 3)', 'too many positional.*; it takes factor, power'),
    ('scaled(size=1)', "unexpected keyword argument 'size'; it takes factor"),
    ("scaled('1')", "metric 'scaled': factor is '1'; it must be a number"),
    ('scaled(**{})', 'give one of scaled'),
  ],
)
def test_what_cannot_be_chosen_is_refused_in_one_line(axis, text, message):
  with pytest.raises(ValueError, match=message) as error:
    axis.create(text)
  assert '\n' not in str(error.value)


def test_a_choice_is_registered_once(axis):
  with pytest.raises(ValueError, match="metric 'scaled' is registered already"):
    axis.register('scaled')(lambda: 0)


def test_a_choice_by_name_is_the_object():
  by_name = methods.sam(rho=0.3, metric='adaptive(eta=0)')
  by_object = methods.sam(
    rho=0.3, metric=lambda rho: perturbations.asam(rho, 0.0)
  )
  named = methods.asam(rho=0.3, eta=0.0)
  expected = _grads(by_object)
  np.testing.assert_array_equal(_grads(by_name), expected)
  np.testing.assert_array_equal(_grads(named), expected)
  assert np.abs(expected - _grads(methods.sam(rho=0.3))).max() > 1e-3


def test_a_mask_in_python_is_what_masked_takes():
  expected = np.array([2.0, -4.0, 9 * 0.8**2])
  for mask in ({'a': False, 'b': True}, lambda p: {'a': False, 'b': True}):
    method = methods.sam(rho=0.3, mask=mask)
    np.testing.assert_allclose(_grads(method), expected, rtol=1e-6)


def test_a_method_refuses_the_axes_that_it_chooses_itself():
  with pytest.raises(ValueError, match="'asam' takes no metric, and metric is"):
    methods.asam(metric='l2')
  with pytest.raises(ValueError, match='takes no metric.*sam'):
    methods.create('asam', metric='l2')
  with pytest.raises(ValueError, match='p is 3.0, and metric is'):
    methods.sam(p=3.0, metric='l2')


def test_the_share_of_a_batch_needs_one():
  for field in ('ascent_share', 'descent_share'):
    method = methods.sam(rho=0.3, **{field: 0.5})
    with pytest.raises(ValueError, match='which a loss that is a function of'):
      _grads(method)
    with pytest.raises(ValueError, match=rf'{field} is 0.0; .*\(0, 1\]'):
      methods.sam(**{field: 0.0})


@pytest.mark.parametrize(
  'optimizer',
  [
    optax.sgd(0.1, 0.9),
    optax.adamw(0.1),
    optax.lion(0.1),
    optax.chain(
      optax.clip_by_global_norm(1.0), optax.sgd(0.1, 0.9, nesterov=True)
    ),
    optax.inject_hyperparams(optax.sgd)(0.1, 0.9),
    optax.multi_transform({'x': optax.sgd(0.1, 0.9)}, {'a': 'x', 'b': 'x'}),
  ],
)
def test_the_momentum_of_an_optimizer_is_found(optimizer):
  grads = {'a': jnp.array([1.0, 2.0]), 'b': jnp.array([3.0])}
  _, state = optimizer.update(grads, optimizer.init(W), W)
  found = methods.momentum_of(state)
  direction = np.concatenate([found['a'], found['b']])
  np.testing.assert_allclose(
    direction / np.linalg.norm(direction),
    np.array([1, 2, 3]) / 14**0.5,
    rtol=1e-6,
  )


def test_there_may_be_no_momentum_and_not_several():
  assert methods.momentum_of(optax.sgd(0.1).init(W)) is None
  twice = optax.chain(
    optax.trace(0.9), optax.trace(0.9), optax.scale(-0.1)
  ).init(W)
  with pytest.raises(ValueError, match='has 2 momenta'):
    methods.momentum_of(twice)

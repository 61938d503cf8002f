"""What an analysis is made of: checked at the call, and refused in one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax import analysis

_BATCH = {'x': np.float32([[1, 2], [3, 4]])}
_PARAMS = {'w': np.float32([1, 2])}
_BALL = analysis.Ball(0.1)


def _loss(params, batch):
  return jnp.square(batch['x'] @ params['w'])


def _objective(loss_fn=_loss, batches=(_BATCH,)):
  return analysis.Objective(loss_fn, batches, devices=jax.devices()[:1])


@pytest.mark.parametrize(
  ('batches', 'message'),
  [
    (_BATCH['x'], r'batches is a ndarray of shape \[2, 2\]; one batch is \[b'),
    (jnp.ones(2), 'batches is a .*Array.* of shape'),
    (_BATCH, r'batches is a dict; one batch is \[batch\]; give a list'),
    ((b for b in [_BATCH]), 'batches is a generator, which can be walked once'),
    (iter([_BATCH]), 'batches is a list_iterator'),
    (zip([_BATCH], strict=True), 'batches is a zip'),
    ('text', 'batches is a str'),
    (None, 'batches is a NoneType'),
    (3, 'batches is a int'),
  ],
)
def test_batches_have_to_be_walked_again_and_again(batches, message):
  for make in (lambda b: _objective(batches=b), _objective().over):
    with pytest.raises(ValueError, match=message) as error:
      make(batches)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'batches', [(_BATCH,), [_BATCH], lambda: iter([_BATCH])]
)
def test_what_can_be_walked_again_is_taken(batches):
  objective = _objective(batches=batches)
  assert objective.value(_PARAMS) == objective.value(_PARAMS) == 73


def test_a_function_whose_batches_are_used_up_is_refused():
  used_up = iter([_BATCH, _BATCH])
  objective = _objective(batches=lambda: used_up)
  assert objective.value(_PARAMS) == 73
  with pytest.raises(ValueError, match='had 4 examples when first.* has 0 now'):
    analysis.top_eigenpairs(objective, _PARAMS, 1)


@pytest.mark.parametrize(
  'batch',
  [
    {'x': np.float32(1)},
    {},
    {'x': np.ones((0, 2))},
    {'x': np.ones((2, 2)), 'y': np.ones(3)},
    {'x': np.ones((2, 2)), 'y': 'text'},
  ],
  ids=str,
)
def test_a_batch_has_examples_in_front(batch):
  with pytest.raises(ValueError, match='a batch has arrays of shapes'):
    _objective(batches=[batch]).value(_PARAMS)


@pytest.mark.parametrize(
  ('loss_fn', 'message'),
  [
    (
      lambda p, b: (_loss(p, b), b),
      r'returns a tuple of 2 arrays.*the aux out',
    ),
    (lambda p, b: {'loss': _loss(p, b)}, 'returns a dict of 1 arrays'),
    (lambda p, b: None, 'returns a NoneType'),
    (lambda p, b: jnp.argmax(_loss(p, b)), 'returns int32; it must return'),
    (lambda p, b: jnp.ones((2, 1)), r'returns \[2, 1\] for a batch of 2'),
  ],
)
def test_a_loss_is_one_number_per_example_and_nothing_else(loss_fn, message):
  with pytest.raises(ValueError, match=message):
    _objective(loss_fn).value_and_grad(_PARAMS)


def test_a_loss_is_a_function():
  with pytest.raises(ValueError, match='loss_fn is 3; it must be a function'):
    _objective(3)


def _measures(objective, params):
  """Everything that differentiates."""
  groups = [[_BATCH]]
  yield lambda: objective.value_and_grad(params)
  yield lambda: objective.hvp(params, params)
  yield lambda: analysis.top_eigenpairs(objective, params, 1)
  yield lambda: analysis.bottom_eigenpairs(objective, params, 1)
  yield lambda: analysis.trace(objective, params, 1)
  yield lambda: analysis.spectrum(objective, params, num_probes=1)
  yield lambda: analysis.worst_case(objective, params, groups, _BALL)
  yield lambda: analysis.average_case(objective, params, groups, _BALL)
  yield lambda: analysis.random_direction(params)


@pytest.mark.parametrize(
  ('extra', 'message'),
  [
    (np.int32(3), r"params\['n'\] is int32; parameters are floating-point"),
    (3, r"params\['n'\] is int; "),
    (np.array([True]), r"params\['n'\] is bool"),
    ('relu', r"params\['n'\] is str"),
    (jnp.tanh, r"params\['n'\] is"),
    (np.complex64(1), r"params\['n'\] is complex64"),
  ],
  ids=lambda x: x if isinstance(x, str) else type(x).__name__,
)
def test_parameters_that_cannot_be_differentiated_are_named(extra, message):
  params = {**_PARAMS, 'n': extra}
  for measure in _measures(_objective(), params):
    with pytest.raises(ValueError, match=message):
      measure()


def test_no_parameters_are_refused():
  for measure in _measures(_objective(), {}):
    with pytest.raises(ValueError, match='params has no arrays'):
      measure()


@pytest.mark.slow
def test_a_frozen_leaf_stays_what_it_is():
  params = {**_PARAMS, 'frozen': None, 'scale': 2.0}
  objective = _objective(lambda p, b: p['scale'] * _loss(p, b))
  for measure in _measures(objective, params):
    measure()
  expected = np.linalg.eigvalsh(
    jax.hessian(lambda v: jnp.mean(v[0] * jnp.square(_BATCH['x'] @ v[1:])))(
      jnp.float32([2, 1, 2])
    )
  )
  found = analysis.bottom_eigenpairs(objective, params, 3)
  np.testing.assert_allclose(found.values, expected, rtol=1e-5)
  assert found.vectors[0]['frozen'] is None


@pytest.mark.parametrize(
  ('tangent', 'message'),
  [
    ({'v': np.float32([1, 2])}, r"tangent\['v'\] is \(2,\), and .* is missing"),
    ({'w': np.float32([1])}, r"tangent\['w'\] is \(1,\), and .* is \(2,\)"),
  ],
)
def test_a_direction_is_like_the_parameters(tangent, message):
  with pytest.raises(ValueError, match=message):
    _objective().hvp(_PARAMS, tangent)
  with pytest.raises(ValueError, match='a direction'):
    analysis.scan(_objective(), _PARAMS, [tangent], np.zeros(1))


@pytest.mark.parametrize(
  ('groups', 'message'),
  [
    (np.ones((2, 2)), r'groups is a ndarray of shape \[2, 2\]; give a list'),
    (_BATCH, 'groups is a dict'),
    ([_BATCH], r'\[\[batch\], ...\], and in group 0, batches is a dict'),
    ([[_BATCH], _BATCH['x']], 'in group 1, batches is a ndarray'),
    ([iter([_BATCH])], 'in group 0, batches is a list_iterator'),
    ([3], 'in group 0, batches is a int'),
    ([], 'there are no groups'),
  ],
)
def test_groups_are_lists_of_batches(groups, message):
  for measure in (analysis.worst_case, analysis.average_case):
    with pytest.raises(ValueError, match=message):
      measure(_objective(), _PARAMS, groups, _BALL)


def test_groups_may_be_walked_once():
  groups = ([_BATCH] for _ in range(2))
  found = analysis.worst_case(_objective(), _PARAMS, groups, _BALL)
  assert len(found.groups) == 2


@pytest.mark.parametrize('number', [0, -1, 1.5, True, '2', None])
def test_numbers_are_whole_and_positive(number):
  objective = _objective()
  for call, name in (
    (lambda: analysis.top_eigenpairs(objective, _PARAMS, number), 'k'),
    (lambda: analysis.trace(objective, _PARAMS, number), 'num_probes'),
  ):
    with pytest.raises(ValueError, match=f'{name} is {number!r}; it must be'):
      call()

"""Reduced precision: what a network computes in, and what epsilon survives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core as jex_core

from sam_jax.training import precision
from tests import zoo

# --- What a multiplication sees ----------------------------------------------


@pytest.mark.parametrize(
  ('platform', 'bits'),
  [
    # By matmul_precision: JAX's default, bfloat16, tensorfloat32, float32.
    ('cpu', (23, 23, 23, 23)),
    # A GPU takes TensorFloat-32 for the default, which 'bfloat16' is, too.
    ('gpu', (10, 10, 10, 23)),
    # A TPU takes two bfloat16 parts of a number for 'tensorfloat32'.
    ('tpu', (7, 7, 15, 23)),
    ('METAL', (23, 23, 23, 23)),
  ],
)
def test_the_bits_are_those_of_the_platforms_arithmetic(platform, bits):
  found = [
    precision.mantissa_bits('float32', matmul_precision, platform)
    for matmul_precision in (None, 'bfloat16', 'tensorfloat32', 'float32')
  ]
  assert tuple(found) == bits


@pytest.mark.parametrize('platform', ['cpu', 'gpu', 'tpu'])
@pytest.mark.parametrize('matmul_precision', precision.MATMUL_PRECISIONS)
def test_a_parameter_in_bfloat16_has_7_bits_whatever_multiplies_it(
  platform, matmul_precision
):
  bits = precision.mantissa_bits('bfloat16', matmul_precision, platform)
  assert bits == 7 == jnp.finfo(jnp.bfloat16).nmant


def test_float32_has_as_many_bits_as_stand_for_no_rounding():
  assert precision.FLOAT32_BITS == jnp.finfo(jnp.float32).nmant


@pytest.mark.parametrize(
  ('names', 'message'),
  [
    (('float16', None), "compute_dtype 'float16'; known: float32, bfloat16"),
    (
      ('float32', 'tf32'),
      "precision 'tf32'; known: bfloat16, tensorfloat32, float32",
    ),
    # Checked even where it would not matter.
    (('bfloat16', 'high'), "matmul_precision 'high'"),
  ],
)
def test_an_unknown_name_is_one_line_that_lists_the_known(names, message):
  for call in (
    lambda: precision.mantissa_bits(*names, 'cpu'),
    lambda: precision.apply_in(lambda *_: None, *names),
  ):
    with pytest.raises(ValueError, match=message) as error:
      call()
    assert '\n' not in str(error.value)


# --- A network in less than float32 ------------------------------------------


@functools.cache
def _network():
  """A model with convolutions and BatchNorm, its variables, and images."""
  model, size = zoo.tiny('cnn')
  images = zoo.random_images(size)
  variables = jax.tree.map(np.asarray, zoo.initialise(model, images))
  # Statistics that bfloat16 does not hold.
  stats = jax.tree.map(
    lambda x: x + np.float32(1 / 3), variables['batch_stats']
  )
  return model, {**variables, 'batch_stats': stats}, images


def _run(apply_fn, variables, images):
  """Returns logits and updated statistics of a training pass."""
  run = functools.partial(apply_fn, train=True, mutable=['batch_stats'])
  return jax.jit(run)(variables, images)


def _gradient(apply_fn, variables, images):
  """Returns the gradient of a loss that is computed in float32."""

  def loss_fn(params):
    logits, _ = _run(apply_fn, {**variables, 'params': params}, images)
    return jnp.sum(jnp.float32(logits) ** 2)

  return jax.grad(loss_fn)(variables['params'])


def test_bfloat16_is_parameters_and_images_cast_by_hand():
  model, variables, images = _network()
  cast = jax.tree.map(lambda x: jnp.bfloat16(x), variables['params'])
  logits, updated = _run(
    precision.apply_in(model.apply, 'bfloat16'), variables, images
  )
  by_hand, updated_by_hand = _run(
    model.apply, {**variables, 'params': cast}, jnp.bfloat16(images)
  )
  assert logits.dtype == jnp.bfloat16
  np.testing.assert_array_equal(logits, by_hand)
  jax.tree.map(np.testing.assert_array_equal, updated, updated_by_hand)
  # And it is another network than that of float32, though a similar one.
  exact, _ = _run(model.apply, variables, images)
  gap = np.abs(np.float32(logits) - exact).max() / np.abs(exact).max()
  assert 1e-3 < gap < 0.1


@pytest.mark.slow
def test_gradients_of_bfloat16_come_out_in_float32_and_are_near():
  model, variables, images = _network()
  rounded = _gradient(
    precision.apply_in(model.apply, 'bfloat16'), variables, images
  )
  exact = _gradient(model.apply, variables, images)
  assert {x.dtype for x in jax.tree.leaves(rounded)} == {jnp.dtype('float32')}
  flat, other = (
    np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])
    for tree in (rounded, exact)
  )
  cosine = flat @ other / np.linalg.norm(flat) / np.linalg.norm(other)
  assert 0.99 < cosine < 1 - 1e-6


def test_batch_norm_statistics_are_not_rounded():
  model, variables, images = _network()
  _, updated = _run(
    precision.apply_in(model.apply, 'bfloat16'), variables, images
  )
  for new, old in zip(
    jax.tree.leaves(updated['batch_stats']),
    jax.tree.leaves(variables['batch_stats']),
    strict=True,
  ):
    assert new.dtype == old.dtype == np.float32
    assert np.any(new != np.float32(jnp.bfloat16(new)))
  seen = []
  precision.apply_in(
    lambda variables, images: seen.append(variables['batch_stats']), 'bfloat16'
  )(variables, images)
  jax.tree.map(np.testing.assert_array_equal, seen[0], variables['batch_stats'])


def test_float32_is_the_model_itself_bit_for_bit():
  model, variables, images = _network()
  wrapped = precision.apply_in(model.apply, 'float32')
  jax.tree.map(
    np.testing.assert_array_equal,
    _run(wrapped, variables, images),
    _run(model.apply, variables, images),
  )
  jax.tree.map(
    np.testing.assert_array_equal,
    _gradient(wrapped, variables, images),
    _gradient(model.apply, variables, images),
  )


def _equations(jaxpr):
  """Yields all equations, those of inner programs too."""
  for equation in jaxpr.eqns:
    yield equation
    for inner in jex_core.jaxprs_in_params(equation.params):
      yield from _equations(inner)


def _precisions(matmul_precision):
  """Returns the precision of every multiplication, by primitive."""
  model, variables, images = _network()
  apply_fn = precision.apply_in(model.apply, 'float32', matmul_precision)
  program = jax.make_jaxpr(
    lambda params, images: _gradient(
      apply_fn, {**variables, 'params': params}, images
    )
  )(variables['params'], images)
  found = {}
  for equation in _equations(program.jaxpr):
    if 'precision' in equation.params:
      name, value = equation.primitive.name, equation.params['precision']
      found.setdefault(name, []).append(value)
  return found


@pytest.mark.parametrize(
  ('matmul_precision', 'expected'),
  [
    (None, None),
    ('bfloat16', (jax.lax.Precision.DEFAULT,) * 2),
    ('tensorfloat32', (jax.lax.Precision.HIGH,) * 2),
    ('float32', (jax.lax.Precision.HIGHEST,) * 2),
  ],
)
def test_every_multiplication_of_both_passes_has_the_precision(
  matmul_precision, expected
):
  found = _precisions(matmul_precision)
  # One convolution, its gradient by the kernel (images have none); two dense
  # layers, and their gradients by kernel and input.
  assert len(found['conv_general_dilated']) == 2
  assert len(found['dot_general']) == 2 * 3
  for name, values in found.items():
    assert set(values) == {expected}, name


def test_the_setting_does_not_leak_out_of_the_network():
  before = jax.config.jax_default_matmul_precision
  model, variables, images = _network()
  _run(precision.apply_in(model.apply, 'float32', 'float32'), variables, images)
  assert jax.config.jax_default_matmul_precision == before


# --- What is left of a perturbation ------------------------------------------


_MEASURES = ('ratio', 'cosine')


def _effective(params, epsilon, bits):
  """Returns (ratio, cosine)."""
  found = jax.jit(precision.effective_perturbation, static_argnums=2)(
    jax.tree.map(jnp.float32, params), jax.tree.map(jnp.float32, epsilon), bits
  )
  assert len(found) == 2
  return [float(found[f'effective_perturbation_{x}']) for x in _MEASURES]


# The spacing of 7-bit numbers from 1 to 2; below 1 it is half of that.
_SPACING = 2.0**-7


@pytest.mark.parametrize(
  ('params', 'epsilon', 'ratio', 'cosine'),
  [
    # Less than half a spacing is rounded away, and a whole one stays.
    ([1.0], [0.49 * _SPACING], 0, 0),
    ([1.0], [_SPACING], 1, 1),
    ([1.0], [-_SPACING], 1, 1),
    # More than half of it becomes a whole.
    ([1.0], [0.625 * _SPACING], 1.6, 1),
    # (3, 4) spacings, of which the first is lost at w = 16.
    ([16.0, 1.0], [3 * _SPACING, 4 * _SPACING], 0.8, 0.8),
    # w is seen as 1, so epsilon as what it takes to the next number.
    ([1 + 0.4 * _SPACING], [0.2 * _SPACING], 5, 1),
    # Half and three halves, both to even: to 0 and 2 spacings.
    ([1.0, 1.0], [0.5 * _SPACING, 1.5 * _SPACING], 2 / 2.5**0.5, 3 / 10**0.5),
    # Zero has numbers of any size beside it.
    ([0.0], [2.0**-40], 1, 1),
  ],
)
def test_effective_perturbations_by_hand(params, epsilon, ratio, cosine):
  # rsqrt and float32.
  assert _effective(params, epsilon, 7) == pytest.approx(
    [ratio, cosine], abs=1e-5
  )


def test_bits_of_both_kinds_count():
  # Half a spacing of 7 bits is four of 10 bits.
  assert _effective([1.0], [0.4 * _SPACING], 7) == [0, 0]
  assert _effective([1.0], [0.5 * _SPACING], 10) == pytest.approx([1, 1])


def test_float32_leaves_the_perturbation_and_so_does_none():
  params = {'a': [1.0, 2.0], 'b': [[0.5]]}
  epsilon = {'a': [2.0**-20, -(2.0**-20)], 'b': [[2.0**-21]]}
  assert _effective(params, epsilon, 23) == pytest.approx([1, 1], abs=1e-6)
  zero = jax.tree.map(lambda x: 0 * x, params)
  for bits in (7, 23):
    assert _effective(params, zero, bits) == [1, 1]


def _gaussian(size, rho, seed=0):
  """Returns standard normal weights and an epsilon of length rho."""
  rng = np.random.default_rng(seed)
  weights, direction = np.float32(rng.normal(size=(2, size)))
  return weights, np.float32(rho * direction / np.linalg.norm(direction))


@pytest.mark.parametrize('rho', [0.05, 5.0])
def test_7_bits_are_those_of_a_cast_to_bfloat16(rho):
  params, epsilon = _gaussian(10_000, rho)

  def cast(x):
    return np.float64(np.asarray(jnp.bfloat16(x)))

  seen = cast(params + epsilon) - cast(params)
  ratio = np.linalg.norm(seen) / np.linalg.norm(epsilon)
  cosine = seen @ epsilon / np.linalg.norm(seen) / np.linalg.norm(epsilon)
  tree = ({'a': x[:10], 'b': {'c': x[10:]}} for x in (params, epsilon))
  assert _effective(*tree, 7) == pytest.approx([ratio, cosine], rel=1e-5)


@pytest.mark.parametrize('bits', [7, 10])
def test_the_smaller_rho_the_less_is_left_of_its_direction(bits):
  """Rounding a small step is a coin toss: all or nothing of a spacing.

  A weight w moves by its spacing s with probability |e| / s, so the square of
  what it moves by is |e| s on average, and its product with e is e^2. Over all
  weights, with r = mean(|e| s) / mean(e^2): the ratio is sqrt(r), the cosine
  1 / sqrt(r).
  """
  size = 200_000
  left = []
  for steps in (4.0, 1.0, 1 / 4, 1 / 16):
    # The typical epsilon of one weight, in spacings at 1.
    rho = steps * 2.0**-bits * size**0.5
    params, epsilon = _gaussian(size, rho)
    left.append(_effective(params, epsilon, bits))
  ratios, cosines = np.transpose(left)
  assert np.all(np.diff(ratios) > 0) and np.all(np.diff(cosines) < 0)
  # A multiple of a spacing is nearly itself.
  assert left[0] == pytest.approx([1, 1], abs=0.02)
  spacing = np.exp2(np.floor(np.log2(np.abs(params))) - bits)
  r = np.mean(np.abs(epsilon) * spacing) / np.mean(np.square(epsilon))
  # Hardly more than a step per ten weights is made: 20,000 coins.
  assert left[-1] == pytest.approx([r**0.5, r**-0.5], rel=0.03)


def test_a_wide_resnet_in_bfloat16_sees_another_perturbation():
  """36.5 M weights and rho = 0.05, the paper's; and four times as much."""
  size, num_params = 1_000_000, 36.5e6
  # A part of the weights, each as large as in a 3 x 3 convolution with 640
  # channels, and its part of epsilon.
  std = (2 / (9 * 640)) ** 0.5
  found = {}
  for rho in (0.05, 0.2):
    weights, epsilon = _gaussian(size, rho * (size / num_params) ** 0.5)
    found[rho] = _effective(std * weights, epsilon, 7)
  assert found[0.05] == pytest.approx([2.9, 0.35], abs=0.1)
  assert found[0.2] == pytest.approx([1.5, 0.65], abs=0.1)

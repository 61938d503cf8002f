"""The language models, against numpy, published counts and themselves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from sam_jax import models
from sam_jax.models import attention
from tests import reference, zoo

_VOCABULARY = 11
_LENGTH = 6
# The two recipes that differ in everything: GPT-2's, and that of today.
_VARIANTS = {
  'gpt2': {},
  'modern': {
    'positions': 'rotary',
    'activation': 'swiglu',
    'tied': False,
    'use_bias': False,
  },
}


def _model(variant='gpt2', **fields):
  settings = {'width': 8, 'depth': 2, 'heads': 2, 'context_length': _LENGTH}
  fields = settings | _VARIANTS[variant] | fields
  return models.create('gpt', num_classes=_VOCABULARY, **fields)


def _tokens(rows=3):
  rng = np.random.default_rng(0)
  return rng.integers(0, _VOCABULARY, (rows, _LENGTH)).astype(np.int32)


@functools.cache
def _variables(variant='gpt2'):
  """Variables far from the initial ones, where all biases are zero."""
  variables = zoo.initialise(_model(variant), _tokens())
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda x: np.asarray(x + rng.normal(0, 0.3, x.shape), np.float32),
    variables,
  )


def _shapes(name, **fields):
  model = models.create(name, **fields)
  variables = zoo.abstract_variables(model, (1, 8), jnp.int32)
  return {k: v.shape for k, v in reference.flatten(variables['params']).items()}


# Published: 124M, 355M, 774M and 1558M parameters; the exact numbers are those
# of the released checkpoints.
@pytest.mark.parametrize(
  ('name', 'count'),
  [
    ('gpt2', 124_439_808),
    ('gpt2-medium', 354_823_168),
    pytest.param('gpt2-large', 774_030_080, marks=pytest.mark.slow),
    pytest.param('gpt2-xl', 1_557_611_200, marks=pytest.mark.slow),
  ],
)
def test_the_sizes_of_gpt2_are_the_published_ones(name, count):
  shapes = _shapes(name, num_classes=50_257, context_length=1024)
  assert zoo.size(shapes) == count


def test_the_small_sizes():
  tiny = _shapes('gpt-tiny', num_classes=256, context_length=128)
  assert zoo.size(tiny) == 1_040_768
  # nanoGPT's for characters, without biases: 10.65M, positions not counted.
  mini = _shapes('gpt-mini', num_classes=65, context_length=256, use_bias=False)
  positions = mini.pop('position_embedding/embedding')
  assert positions == (256, 384)
  assert round(zoo.size(mini) / 1e6, 2) == 10.65


def _numpy_norm(x, params):
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
  return x * params['scale'] + params.get('bias', 0)


def _numpy_dense(x, params):
  return x @ params['kernel'] + params.get('bias', 0)


def _numpy_rotated(head):
  """Multiplies complex numbers, one for each pair, by powers of units."""
  length, units = head.shape
  pairs = head[:, : units // 2] + 1j * head[:, units // 2 :]
  angles = 10_000.0 ** (-2 * np.arange(units // 2) / units)
  pairs = pairs * np.exp(1j * np.outer(np.arange(length), angles))
  return np.concatenate([pairs.real, pairs.imag], axis=-1)


def _numpy_attention(x, params, rotated):
  """One sequence, one head after the other, one token after the other."""
  query, key, value = np.split(_numpy_dense(x, params['qkv']), 3, axis=-1)
  out = np.zeros_like(x)
  for units in np.split(np.arange(x.shape[-1]), 2):
    q, k, v = (part[:, units] for part in (query, key, value))
    if rotated:
      q, k = _numpy_rotated(q), _numpy_rotated(k)
    for i in range(len(x)):
      weights = scipy.special.softmax(k[: i + 1] @ q[i] / len(units) ** 0.5)
      out[i, units] = weights @ v[: i + 1]
  return _numpy_dense(out, params['attention_out'])


def _numpy_mlp(x, params):
  hidden = _numpy_dense(x, params['mlp_in'])
  if 'mlp_gate' in params:
    gate = _numpy_dense(x, params['mlp_gate'])
    hidden = hidden * gate * scipy.special.expit(gate)
  else:
    cube = hidden + 0.044715 * hidden**3
    hidden = 0.5 * hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * cube))
  return _numpy_dense(hidden, params['mlp_out'])


def _numpy_logits(params, tokens):
  """The logits of one sequence, in float64."""
  x = params['token_embedding']['embedding'][tokens]
  if learned := params.get('position_embedding'):
    x = x + learned['embedding'][: len(tokens)]
  for i in range(2):
    block = params[f'block_{i}']
    y = _numpy_norm(x, block['attention_norm'])
    x = x + _numpy_attention(y, block, rotated=not learned)
    x = x + _numpy_mlp(_numpy_norm(x, block['mlp_norm']), block)
  x = _numpy_norm(x, params['final_norm'])
  if 'head' in params:
    return _numpy_dense(x, params['head'])
  return x @ params['token_embedding']['embedding'].T


@pytest.mark.parametrize('variant', _VARIANTS)
def test_logits_equal_those_of_numpy(variant):
  variables, tokens = _variables(variant), _tokens()[:, :-1]
  logits = zoo.predict(_model(variant), variables, tokens)
  params = jax.tree.map(np.float64, variables['params'])
  expected = [_numpy_logits(params, row) for row in tokens]
  zoo.assert_close(logits, np.array(expected), 1e-5)


@pytest.mark.parametrize('variant', _VARIANTS)
def test_no_logit_depends_on_a_later_token(variant):
  """Row t of the Jacobian with respect to embeddings is zero beyond t."""
  model, variables = _model(variant), _variables(variant)
  table = variables['params']['token_embedding']['embedding']
  # Each place has a token of its own, so the table's rows are the inputs.
  tokens = np.arange(_LENGTH)[None]

  def score(table):
    # Tied logits would depend on the table once more.
    params = variables['params'] | {'token_embedding': {'embedding': table}}
    _, state = model.apply(
      {'params': params},
      tokens,
      train=False,
      capture_intermediates=lambda module, _: module.name == 'final_norm',
    )
    (x,) = state['intermediates']['final_norm']['__call__']
    return x[0] @ np.arange(1.0, 9)  # a plain sum over units is constant

  jacobian = np.asarray(jax.jit(jax.jacrev(score))(table))[:, :_LENGTH]
  sizes = np.abs(jacobian).sum(-1)
  assert np.all(sizes[np.triu_indices(_LENGTH, 1)] == 0)
  assert np.all(sizes[np.tril_indices(_LENGTH)] > 1e-4)


@functools.cache
def _initial(variant):
  """A model of 256 tokens, random rows, and initial variables."""
  fields = {'width': 64, 'depth': 3, 'heads': 2, 'context_length': 16}
  fields |= _VARIANTS[variant]
  model = models.create('gpt', num_classes=256, **fields)
  tokens = np.random.default_rng(0).integers(0, 256, (16, 16))
  return model, tokens, zoo.initialise(model, tokens)


@pytest.mark.parametrize('variant', _VARIANTS)
def test_the_first_loss_is_that_of_guessing(variant):
  model, tokens, variables = _initial(variant)
  logits = zoo.predict(model, variables, tokens)[:, :-1]
  chosen = np.take_along_axis(logits, tokens[:, 1:, None], axis=-1)[..., 0]
  losses = scipy.special.logsumexp(logits, axis=-1) - chosen
  np.testing.assert_allclose(losses.mean(), np.log(256), atol=0.05)


@pytest.mark.parametrize('variant', _VARIANTS)
def test_initial_weights_are_those_of_gpt2(variant):
  """Those of the 2 * 3 residual branches are smaller."""
  variables = _initial(variant)[-1]
  for name, value in reference.flatten(variables['params']).items():
    if name.endswith(('kernel', 'embedding')):
      std = 0.02 / 6**0.5 if '_out' in name else 0.02
      assert np.std(value) == pytest.approx(std, rel=0.06), name
    else:
      assert np.all(np.asarray(value) == name.endswith('scale')), name


def _loss_and_grad(**fields):
  one_hot = jax.nn.one_hot(_tokens()[:, ::-1], _VOCABULARY)
  return zoo.loss_and_grad(_model(**fields), _tokens(), one_hot)


def test_recomputation_and_dropout():
  """Blocks that are computed again drop out the same units."""
  variables = _variables()
  plain, again = (
    _loss_and_grad(dropout_rate=0.5, remat=remat) for remat in (False, True)
  )
  (loss, _), grads = plain(variables, 0)
  (same_loss, _), same_grads = again(variables, 0)
  (other_loss, _), _ = plain(variables, 1)
  np.testing.assert_allclose(loss, same_loss, rtol=1e-6)
  assert abs(loss - other_loss) > 1e-3
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    grads,
    same_grads,
  )
  evaluated = zoo.predict(_model(dropout_rate=0.5), variables, _tokens())
  np.testing.assert_array_equal(
    evaluated, zoo.predict(_model(), variables, _tokens())
  )


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'heads': 3}, 'heads must divide the width, got 3 heads and width 8'),
    (
      {'width': 6, 'positions': 'rotary'},
      "positions='rotary' needs heads of an even width, got 3",
    ),
    ({'context_length': None}, "positions='learned' needs context_length"),
    ({'depth': 0}, 'depth must be at least 1, got 0'),
    ({'mlp_width': -1}, 'mlp_width must be at least 1, got -1'),
    ({'dropout_rate': 1.0}, r'dropout_rate must be in \[0, 1\), got 1.0'),
    ({'positions': 'sincos'}, "unknown positions 'sincos'; known: learned"),
    ({'activation': 'relu'}, "unknown activation 'relu'; known: gelu"),
    ({'attention': 'flash'}, "unknown attention 'flash'; known: auto"),
    ({'context_length': 5}, 'the window has 6 tokens, and .* context_length=5'),
  ],
)
def test_refuses_what_does_not_fit(fields, message):
  with pytest.raises(ValueError, match=f'^{message}'):
    zoo.abstract_variables(_model(**fields), (1, _LENGTH), jnp.int32)


def test_rotary_positions_take_a_longer_window():
  model, variables = _model('modern', context_length=3), _variables('modern')
  logits = zoo.predict(model, variables, _tokens())
  expected = zoo.predict(_model('modern'), variables, _tokens())
  np.testing.assert_array_equal(logits, expected)


class _Gpu:
  device_kind = 'NVIDIA H100 80GB HBM3'
  compute_capability = '9.0'


@pytest.mark.parametrize(
  ('kernel', 'dtype', 'units', 'chosen'),
  [
    ('auto', 'bfloat16', 64, 'cudnn'),
    ('auto', 'float32', 64, 'xla'),
    ('auto', 'bfloat16', 36, 'xla'),
    ('auto', 'bfloat16', 160, 'xla'),
    ('xla', 'bfloat16', 64, 'xla'),
    ('cudnn', 'float32', 64, 'cudnn'),
  ],
)
def test_a_gpu_gets_the_fused_kernel_where_there_is_one(
  monkeypatch, kernel, dtype, units, chosen
):
  asked = []

  def record(query, *_, is_causal, implementation):
    asked.append((is_causal, implementation))
    return query

  monkeypatch.setattr(jax, 'local_devices', lambda: [_Gpu])
  monkeypatch.setattr(jax.nn, 'dot_product_attention', record)
  query = jnp.zeros((1, 2, 3, units), dtype)
  attention.attend(query, query, query, is_causal=True, kernel=kernel)
  assert asked == [(True, chosen)]

"""Text from a language model: which tokens follow."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from sam_jax.runs import generation

_VOCABULARY = 7
_LENGTH = 4


_TABLE = np.random.default_rng(0).normal(
  size=(_VOCABULARY, _VOCABULARY, _LENGTH, _VOCABULARY)
)


def _after(tokens):
  """Logits that depend on the last two tokens, and on how many there are."""
  before = jnp.pad(tokens, ((0, 0), (1, 0)))[:, :-1]
  places = jnp.arange(tokens.shape[1])[None]
  return jnp.asarray(_TABLE, jnp.float32)[tokens, before, places]


def _apply(variables, tokens, *, train):
  assert not train
  return _after(tokens) * variables


def _generate(prompt, count, apply=_apply, **sampling):
  tokens = generation.generate(
    apply,
    np.float32(4),
    prompt,
    context_length=_LENGTH,
    vocabulary_size=_VOCABULARY,
    sampling=generation.Sampling(**sampling),
  )
  return list(itertools.islice(tokens, count))


def _likeliest(prompt, count):
  """Looks at the last tokens, and adds the one with the largest logit."""
  tokens = list(prompt)
  for _ in range(count):
    window = np.array([tokens[-_LENGTH:]])
    tokens.append(int(jnp.argmax(_after(window)[0, -1])))
  return tokens[len(prompt) :]


@pytest.mark.parametrize('prompt', [[2], [1, 0, 3, 5], [6, 6, 1, 2, 3, 0]])
def test_without_temperature_the_likeliest_token_follows(prompt):
  expected = _likeliest(prompt, 9)
  assert len(set(expected)) > 1
  assert _generate(prompt, 9, temperature=0.0) == expected
  assert _generate(prompt, 9, top_k=1) == expected


def test_the_seed_decides_what_is_drawn():
  first, again, other = (_generate([1], 20, seed=seed) for seed in (0, 0, 1))
  assert first == again
  assert first != other
  # A prefix does not depend on how much follows.
  assert _generate([1], 5) == first[:5]


@pytest.mark.parametrize(
  ('temperature', 'top_k'), [(1.0, None), (0.5, None), (2.0, 3), (1.0, 7)]
)
def test_tokens_are_drawn_as_often_as_they_are_likely(temperature, top_k):
  logits = np.array([0.3, -1.0, 2.0, 0.9, 0.0, -2.0, 1.5])
  sampling = generation.Sampling(temperature, top_k)
  keys = jax.random.split(jax.random.key(0), 4000)
  draw = lambda key: generation.sample(key, jnp.asarray(logits), sampling)
  drawn = np.asarray(jax.jit(jax.vmap(draw))(keys))
  allowed = np.argsort(-logits)[:top_k]
  expected = np.zeros(_VOCABULARY)
  expected[allowed] = scipy.special.softmax(logits[allowed] / temperature)
  shares = np.bincount(drawn, minlength=_VOCABULARY) / len(drawn)
  np.testing.assert_allclose(shares, expected, atol=0.025)  # 3 deviations
  assert np.all(shares[expected == 0] == 0)


@pytest.mark.parametrize(
  ('prompt', 'sampling', 'message'),
  [
    ([], {}, 'the prompt has no tokens'),
    ([1, 7], {}, 'the prompt has the token 7, and .* those below 7'),
    ([1], {'top_k': 0}, 'top_k is 0; .* a number from 1 to 7'),
    ([1], {'top_k': 8}, 'top_k is 8; .* a number from 1 to 7'),
    ([1], {'temperature': -0.5}, 'temperature is -0.5; give a number from 0'),
    ([1], {'temperature': np.nan}, 'temperature is nan'),
  ],
)
def test_refuses_what_nothing_follows(prompt, sampling, message):
  with pytest.raises(ValueError, match=message):
    _generate(prompt, 0, **sampling)


def test_a_model_that_has_diverged_is_an_error():
  def apply(variables, tokens, *, train):
    return jnp.where(tokens[..., None] == 2, jnp.nan, _after(tokens))

  with pytest.raises(ValueError, match='an output .* is NaN or infinite'):
    _generate([1, 2], 1, apply)

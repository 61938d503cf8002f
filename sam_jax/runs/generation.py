"""Text from a language model: one token after the other."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sam_jax import keys, types

# In place of a token, where an output is NaN or infinite.
_NONE = -1


class Sampling(NamedTuple):
  """How a token is chosen among those that a model predicts.

  Attributes:
    temperature: by which the logits are divided; 0 takes the largest one.
    top_k: number of the likeliest tokens to choose from; None is all of them.
    seed: of the draws.
  """

  temperature: float = 1.0
  top_k: int | None = None
  seed: int = 0

  def check(self, vocabulary_size: int) -> None:
    """Refuses values that are out of range."""
    if not 0 <= self.temperature < np.inf:
      raise ValueError(
        f'temperature is {self.temperature}; give a number from 0 on, where 0 '
        'takes the likeliest token'
      )
    if self.top_k is not None and not 1 <= self.top_k <= vocabulary_size:
      raise ValueError(
        f'top_k is {self.top_k}; the vocabulary has {vocabulary_size} tokens: '
        f'give a number from 1 to {vocabulary_size}'
      )


def sample(key: jax.Array, logits: jax.Array, sampling: Sampling) -> jax.Array:
  """Returns a token.

  Args:
    key: of this draw.
    logits: [vocabulary].
    sampling: how it is chosen; its seed is not used here.
  """
  if sampling.temperature == 0:
    return jnp.argmax(logits)
  scaled = logits / sampling.temperature
  if sampling.top_k is None:
    return jax.random.categorical(key, scaled)
  largest, tokens = jax.lax.top_k(scaled, sampling.top_k)
  return tokens[jax.random.categorical(key, largest)]


def generate(
  apply_fn: Callable[..., jax.Array],
  variables: types.PyTree,
  prompt: Sequence[int],
  *,
  context_length: int,
  vocabulary_size: int,
  sampling: Sampling,
) -> Iterator[int]:
  """Yields tokens that follow a prompt, without end.

  The model sees the last `context_length` tokens. Each token is a forward pass
  over a window of this length, which is compiled once.

  Args:
    apply_fn: `(variables, tokens, train=False) -> logits`, of a causal model.
    variables: of the model.
    prompt: at least one token.
    context_length: number of tokens that the model was trained on at once.
    vocabulary_size: number of tokens that it knows.
    sampling: how tokens are chosen.

  Raises:
    ValueError: the prompt is empty or has a token that the model does not know,
      a value of `sampling` is out of range, or an output is not finite.
  """
  sampling.check(vocabulary_size)
  if not len(prompt):
    raise ValueError('the prompt has no tokens; give at least one')
  if max(prompt) >= vocabulary_size:
    raise ValueError(
      f'the prompt has the token {max(prompt)}, and the model knows those '
      f'below {vocabulary_size}'
    )
  return _tokens(
    jax.jit(functools.partial(_step, apply_fn, sampling)),
    variables,
    list(prompt)[-context_length:],
    context_length,
  )


def _tokens(
  step: Callable[..., Any],
  variables: types.PyTree,
  prompt: list[int],
  context_length: int,
) -> Iterator[int]:
  """Yields tokens, as `generate` says."""
  window = np.zeros((1, context_length), np.int32)
  window[0, : len(prompt)] = prompt
  count = 0
  while True:
    window, token = step(variables, window, len(prompt), count)
    if token == _NONE:
      raise ValueError(
        'an output of the model is NaN or infinite; its training has diverged'
      )
    yield int(token)
    count += 1


def _step(
  apply_fn: Callable[..., jax.Array],
  sampling: Sampling,
  variables: types.PyTree,
  window: jax.Array,
  length: jax.Array,
  count: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Returns the window with one more token, and this token.

  Args:
    apply_fn: see `generate`.
    sampling: see `generate`.
    variables: see `generate`.
    window: [1, context_length]; what is behind the last token is not looked at,
      as the model is causal.
    length: of the prompt.
    count: number of tokens that have followed it.
  """
  size = window.shape[1]
  used = jnp.minimum(length + count, size)
  logits = apply_fn(variables, window, train=False)[0, used - 1]
  key = jax.random.fold_in(keys.make(sampling.seed), count)
  token = sample(key, logits, sampling)
  token = jnp.where(jnp.all(jnp.isfinite(logits)), token, _NONE)
  is_full = used == size
  window = jnp.where(is_full, jnp.roll(window, -1, axis=1), window)
  place = jnp.where(is_full, size - 1, used)
  return window.at[0, place].set(token), token

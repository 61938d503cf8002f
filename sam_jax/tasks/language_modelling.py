"""Text: the next token is predicted from those before it."""

from collections.abc import Generator, Mapping
from typing import Any, ClassVar

import flax
import jax
import jax.numpy as jnp
import numpy as np

from sam_jax import models
from sam_jax.datasets import text, windows
from sam_jax.tasks import base, losses, registry

Windows = windows.Windows


@registry.register('language_modelling')
class LanguageModelling(base.Task):
  """The cross entropy of each token of a window, given those before it.

  An example is a window of T tokens and the one after each of them, see
  `datasets.windows`. Its loss is the mean over its tokens, in nats. An
  evaluation is a mean over all tokens of a split but the first, whatever the
  windows: the loss, the share of tokens that are not the most probable one, the
  perplexity and, if it is known how many bytes of text the tokens are, the bits
  per byte, which are the score then.
  """

  score = base.Score('loss', 'loss', 'nats')
  examples: ClassVar[str] = 'windows'

  def __init__(self, model: flax.linen.Module, info: Mapping[str, Any]) -> None:
    """Takes the model, and what is known of the text.

    Args:
      model: takes tokens, int32 [rows, T], and returns logits of the one after
        each of them, [rows, T, vocabulary_size].
      info: of a `datasets.TextDataset`.

    Raises:
      ValueError: the model's own context is shorter than a window.
    """
    super().__init__(model, info)
    if info['bytes_known']:
      self.score = base.Score('bits_per_byte', 'bits per byte')
    longest = getattr(model, 'context_length', None)
    if longest is not None and longest < self.context_length:
      raise ValueError(
        f'model.context_length is {longest}, and data.context_length '
        f'{self.context_length}; a window must not be longer than the context '
        'of the model'
      )

  @property
  def context_length(self) -> int:
    """T, the tokens of a window that are predicted."""
    length: int = self.info['context_length']
    return length

  @property
  def offers(self) -> dict[str, Any]:
    """Logits."""
    return {'logits': self.info['vocabulary_size']}

  @classmethod
  def load_data(cls, **options: Any) -> text.TextDataset:
    """Returns the text of a config's section `data`."""
    return text.create(**options)

  @classmethod
  def create_model(
    cls, info: Mapping[str, Any], **options: Any
  ) -> flax.linen.Module:
    """Returns the model; its context is a window unless it is given.

    Raises:
      ValueError: it is not a model of text, which has a `context_length`.
    """
    if not _is_of_text(options['name']):
      known = [name for name in models.names() if '{' not in name]
      raise ValueError(
        f'model {options["name"]!r} has no context_length, and so it is not '
        f'for text; use {", ".join(filter(_is_of_text, known)) or "a plug-in"}'
      )
    options = {'context_length': info['context_length'], **options}
    return models.create(num_classes=info['vocabulary_size'], **options)

  def count(self, examples: Windows) -> int:
    """Returns how many windows there are."""
    return len(examples)

  def measured(self, examples: Windows) -> Windows:
    """Returns the windows that are whole."""
    return examples.whole()

  def files(self, examples: Windows) -> None:
    """Returns None: windows are not files."""
    del examples

  def train_batches(
    self, examples: Windows, batch_size: int, **options: Any
  ) -> Generator[dict[str, np.ndarray], None, None]:
    """Yields training batches without end, see `windows.train_batches`."""
    return windows.train_batches(examples, batch_size, **options)

  def eval_batches(
    self, examples: Windows, batch_size: int, **options: Any
  ) -> Generator[dict[str, np.ndarray], None, None]:
    """Yields every window once, see `windows.eval_batches`."""
    return windows.eval_batches(examples, batch_size, **options)

  def batch_shapes(self, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a training batch."""
    tokens = jax.ShapeDtypeStruct((rows, self.context_length + 1), jnp.int32)
    number = jax.ShapeDtypeStruct((rows,), jnp.int32)
    shapes = {'tokens': tokens, 'length': number, 'position': number}
    if self.info['bytes_known']:
      mean = jax.ShapeDtypeStruct((rows,), jnp.float32)
      shapes['bytes_per_token'] = mean
    return shapes

  def init_inputs(self) -> np.ndarray:
    """Returns a window of one example, for the model's `init`."""
    return np.zeros((1, self.context_length), np.int32)

  def preprocess(self, batch: base.Batch) -> base.Batch:
    """Returns the batch as it is."""
    return batch

  def inputs(self, batch: base.Batch) -> jax.Array:
    """Returns the tokens that others are predicted from, `[rows, T]`."""
    return batch['tokens'][:, :-1]

  def example_losses(self, outputs: jax.Array, batch: base.Batch) -> jax.Array:
    """Returns the mean cross entropy of each window's tokens, in nats."""
    return _means(losses.cross_entropy(outputs, _targets(batch)), batch)

  def train_metrics(
    self, outputs: jax.Array, batch: base.Batch
  ) -> dict[str, jax.Array]:
    """Returns the error rate of the tokens, and the bits per byte if known."""
    found = self._measure(outputs, batch)
    return {name: jnp.mean(x) for name, x in found.items() if name != 'loss'}

  def example_metrics(
    self, outputs: jax.Array, batch: base.Batch
  ) -> dict[str, jax.Array]:
    """Returns the metrics of each window, and its weight in an evaluation.

    Args:
      outputs: logits, `[rows, T, vocabulary_size]`.
      batch: see `datasets.windows.Windows.at`.

    Returns:
      Float arrays `[rows]`: loss (nats per token), error_rate (share of tokens
      of which another is more probable), bits_per_byte if the bytes are known,
      and weight, the number of tokens that are predicted.
    """
    weight = batch['length'].astype(jnp.float32)
    return {**self._measure(outputs, batch), 'weight': weight}

  def _measure(
    self, outputs: jax.Array, batch: base.Batch
  ) -> dict[str, jax.Array]:
    """Returns the metrics of each window."""
    found = self.example_losses(outputs, batch)
    metrics = {'loss': found, 'error_rate': _errors(outputs, batch)}
    if 'bytes_per_token' in batch:
      bits = found / jnp.log(2.0)
      metrics['bits_per_byte'] = bits / batch['bytes_per_token']
    return metrics

  def summary(self, means: Mapping[str, float]) -> dict[str, float]:
    """Returns the means with the perplexity, exp(loss)."""
    with np.errstate(over='ignore'):
      return {**means, 'perplexity': float(np.exp(means['loss']))}

  def rate(self, examples: float) -> str:
    """Returns the tokens per second."""
    return f'{examples * self.context_length:.0f} tokens/s'

  def predictions(
    self, outputs: np.ndarray, batch: base.Batch
  ) -> dict[str, np.ndarray]:
    """Returns the metrics of each window, and its number of tokens."""
    metrics = self.example_metrics(jnp.array(outputs), batch)
    del metrics['weight']
    columns = {name: np.asarray(values) for name, values in metrics.items()}
    return {'tokens': np.asarray(batch['length']), **columns}


def _is_of_text(name: str) -> bool:
  """Whether a model takes tokens."""
  taken = models.options(name)
  return taken is None or 'context_length' in taken


def _targets(batch: base.Batch) -> jax.Array:
  """Returns the tokens that are predicted, `[rows, T]`."""
  return batch['tokens'][:, 1:]


def _errors(outputs: jax.Array, batch: base.Batch) -> jax.Array:
  """Returns the share of each window's tokens that are predicted wrongly."""
  targets = _targets(batch)
  own = jnp.take_along_axis(outputs, targets[..., None], axis=-1)[..., 0]
  # A NaN compares as neither larger nor smaller: count it as an error.
  is_right = (jnp.argmax(outputs, axis=-1) == targets) & jnp.isfinite(own)
  return 1 - _means(is_right.astype(jnp.float32), batch)


def _means(values: jax.Array, batch: base.Batch) -> jax.Array:
  """Returns means over the tokens of each window, without what fills it up."""
  length = batch['length']
  is_real = jnp.arange(values.shape[1])[None] < length[:, None]
  return jnp.sum(jnp.where(is_real, values, 0), axis=1) / length

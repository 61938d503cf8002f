"""What a task is: what a batch, a loss and a score are."""

import abc
from collections.abc import Generator, Mapping
from typing import Any, ClassVar, NamedTuple

import flax
import jax
import numpy as np

from sam_jax import datasets, models
from sam_jax.datasets import encoded

Batch = Mapping[str, Any]
Examples = Any  # of a task's data set; only the task looks inside


class Score(NamedTuple):
  """The number by which the best checkpoint is kept and rho is chosen.

  Lower is better.

  Attributes:
    metric: name of the metric of an evaluation that it is.
    label: what tables and axes call it.
    unit: of the numbers that people read, such as '%'.
    scale: by which the metric is multiplied for people.
  """

  metric: str
  label: str
  unit: str = ''
  scale: float = 1.0

  def heading(self, label: str | None = None) -> str:
    """Returns what a column of a table, or an axis of a picture, is called.

    Args:
      label: what the numbers are; None is the label of the score.

    Example:
      >>> from sam_jax import tasks
      >>> score = tasks.Score('error_rate', 'error', '%', 100)
      >>> score.heading(), score.heading('paper')
      ('error, %', 'paper, %')
    """
    label = self.label if label is None else label
    return f'{label}, {self.unit}' if self.unit else label

  def text(self, value: float) -> str:
    """Returns a value as people read it.

    Example:
      >>> from sam_jax import tasks
      >>> print(tasks.Score('error_rate', 'error', '%', 100).text(0.0321))
      3.21 %
    """
    return f'{self.number(value)} {self.unit}'.rstrip()

  def number(self, value: float, sign: str = '') -> str:
    """Returns a value without its unit.

    Args:
      value: of the metric.
      sign: '+' has a plus before a value that is not negative.

    Example:
      >>> from sam_jax import tasks
      >>> tasks.Score('error_rate', 'error', '%', 100).number(0.0321, '+')
      '+3.21'
    """
    digits = '.2f' if self.unit == '%' else '.4g'
    return format(self.scale * value, sign + digits)


class Task(abc.ABC):
  """What a batch, a loss and a score are, for one data set and model.

  The functions of batches and outputs are pure: they run on the device, inside
  the compiled step. A batch is a dict of arrays with the examples in front; all
  have `position`, int32, the place of each example in the global batch.

  Attributes:
    score: what runs are compared by.
    examples: the word for several examples, in rates such as images/s.
    shown: metrics that a progress line has, besides the score.
    model: Flax module that takes `inputs(batch)`, `train` and `true_gradient`.
    info: what it takes to use the model without its data set, and in a run
      what tells these data from others, JSON.
  """

  score: Score
  examples: ClassVar[str] = 'examples'
  shown: ClassVar[tuple[str, ...]] = ('loss',)

  def __init__(self, model: flax.linen.Module, info: Mapping[str, Any]) -> None:
    """Takes the model, and what is known of the data set."""
    self.model = model
    self.info = info

  @property
  def offers(self) -> Mapping[str, Any]:
    """What a method may use besides the loss, see `methods.base.NEEDS`.

    `logits`: how many there are along the last axis of the model's outputs, if
    these are logits.
    `classes`: number of training examples of each class; then `class_values`
    is there. `examples`: number of training examples, if each row of a batch is
    made of one alone; then a batch has `example`, int32: its number, from 0 on.
    `domains`: their number; then a batch has `domain`, int32.
    """
    return {}

  # --- The data set and the model, on the host ---

  @classmethod
  def load_data(cls, **options: Any) -> Any:
    """Returns the data set of a config's section `data`.

    It has `name`, `train` and `evaluation`, examples, and `info`.

    Raises:
      ValueError: a value is not allowed.
      FileNotFoundError: the files are missing.
    """
    return datasets.create(**options)

  @classmethod
  def create_model(
    cls, info: Mapping[str, Any], **options: Any
  ) -> flax.linen.Module:
    """Returns the model of a config's section `model`.

    Args:
      info: of the data set.
      **options: `name`, and arguments of the model of that name.
    """
    return models.create(num_classes=info['num_classes'], **options)

  def count(self, examples: Examples) -> int:
    """Returns how many examples there are."""
    return len(examples.labels)

  def measured(self, examples: Examples) -> Examples:
    """Returns the examples that have the same weight in an evaluation.

    Sharpness and curvature are of the mean loss of these.
    """
    return examples

  def files(self, examples: Examples) -> list[str] | None:
    """Returns the file that each example comes from.

    They are paths below the directory of the data set. None is for examples
    that are not files.
    """
    images = getattr(examples, 'images', None)
    if not isinstance(images, encoded.EncodedImages):
      return None
    found = map(images.file, range(len(images)))
    known = [path for path in found if path is not None]
    return known if len(known) == len(images) else None

  def train_batches(
    self, examples: Examples, batch_size: int, **options: Any
  ) -> Generator[dict[str, np.ndarray], None, None]:
    """Yields training batches without end, see `datasets.train_batches`."""
    return datasets.train_batches(examples, batch_size, **options)

  def eval_batches(
    self, examples: Examples, batch_size: int, **options: Any
  ) -> Generator[dict[str, np.ndarray], None, None]:
    """Yields every example once, see `datasets.eval_batches`."""
    return datasets.eval_batches(examples, batch_size, **options)

  @abc.abstractmethod
  def batch_shapes(self, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a training batch."""

  @abc.abstractmethod
  def init_inputs(self) -> Any:
    """Returns inputs of one example, for the model's `init`."""

  # --- On the device ---

  @abc.abstractmethod
  def preprocess(self, batch: Batch) -> Batch:
    """Returns a batch as the model is evaluated on it."""

  def augment(self, key: jax.Array, batch: Batch) -> Batch:
    """Returns a group's examples as the model is trained on them.

    Args:
      key: of the step, the same on every device.
      batch: this device's part of a group.
    """
    del key
    return self.preprocess(batch)

  def mix(self, key: jax.Array, batch: Batch) -> Batch:
    """Returns a microbatch whose examples are mixed with each other.

    Args:
      key: of the step, the same for all microbatches.
      batch: a microbatch, augmented.
    """
    del key
    return batch

  @abc.abstractmethod
  def inputs(self, batch: Batch) -> Any:
    """Returns what of a prepared batch the model takes."""

  def apply(self, variables: Any, inputs: Any, **options: Any) -> Any:
    """Returns the model's outputs, as its `apply` does."""
    return self.model.apply(variables, inputs, **options)

  @abc.abstractmethod
  def example_losses(self, outputs: Any, batch: Batch) -> jax.Array:
    """Returns the loss of each example, whose mean is trained, `[rows]`."""

  def class_values(self, values: jax.Array, batch: Batch) -> jax.Array:
    """Returns a value of each example's class, `[rows]`; see `offers`.

    Args:
      values: of the classes, `[classes]`.
      batch: a microbatch, augmented and mixed.
    """
    raise NotImplementedError(f'{type(self).__name__} has no classes')

  def train_metrics(self, outputs: Any, batch: Batch) -> dict[str, jax.Array]:
    """Returns means over a microbatch to log besides the loss, scalars."""
    del outputs, batch
    return {}

  @abc.abstractmethod
  def example_metrics(self, outputs: Any, batch: Batch) -> dict[str, jax.Array]:
    """Returns the metrics of an evaluation of each example, `[rows]` each.

    They have the loss, without what belongs to training alone, and the metric
    of the score. They may have `weight`, that of each example in the means of
    an evaluation; without it all weigh the same.
    """

  def summary(self, means: Mapping[str, float]) -> dict[str, float]:
    """Returns the metrics of a whole evaluation, of the means over examples."""
    return dict(means)

  # --- What comes out ---

  def rate(self, examples: float) -> str:
    """Returns a number of examples per second as people read it."""
    return f'{examples:.0f} {self.examples}/s'

  def predicted_labels(self, outputs: np.ndarray) -> np.ndarray:
    """Returns the labels that outputs stand for, to train another model on.

    Raises:
      ValueError: the task has no labels that could be predicted.
    """
    raise ValueError(
      f'labels_from needs a task that predicts labels, and '
      f'{type(self).__name__} does not; leave it out'
    )

  def predictions(
    self, outputs: np.ndarray, batch: Batch
  ) -> dict[str, np.ndarray]:
    """Returns the columns of a table of predictions, `[rows]` each.

    Args:
      outputs: of the model, `[rows, ...]`.
      batch: of an evaluation, with `label`, `[rows, ...]`.
    """
    columns: dict[str, np.ndarray] = {}
    for name, values in (('label', batch['label']), ('output', outputs)):
      flat = np.reshape(values, (len(values), -1)).T
      columns |= {
        name if len(flat) == 1 else f'{name}_{i}': column
        for i, column in enumerate(flat)
      }
    return columns

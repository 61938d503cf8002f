"""What a data set is, the table of their names, and how one is split.

A loader reads its source whole and knows nothing of splits or noise; `create`
does the rest in one order for all: check, cut off the validation examples,
add what is for training only, corrupt the training labels.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from sam_jax import lookup, registration
from sam_jax.datasets import encoded, label_noise as label_noise_lib

SPLITS = ('test', 'validation')


class Examples(NamedTuple):
  """Labelled images.

  Attributes:
    images: uint8 [n, height, width, channels], in memory or still encoded.
    labels: int32 [n], in memory.
    domains: int32 [n], which of the domains of the data set they are from; None
      if it has none, or the examples are for evaluation.
  """

  images: np.ndarray | encoded.EncodedImages
  labels: np.ndarray
  domains: np.ndarray | None = None

  def select(self, key: slice | np.ndarray) -> 'Examples':
    """Returns the examples of a slice or of an array of indices."""
    domains = None if self.domains is None else self.domains[key]
    return Examples(self.images[key], self.labels[key], domains)


@dataclasses.dataclass(frozen=True)
class Source:
  """What a loader returns: a data set as its authors published it.

  Attributes:
    train: training examples; the last `num_validation` serve as the
      validation split.
    test: test examples; None if there are none.
    num_classes: labels lie in [0, num_classes).
    mean: of each channel, for images scaled to [0, 1].
    std: likewise.
    num_validation: examples held out by split 'validation'; 0 for none.
    extra: more training examples, never held out (SVHN).
    validation: examples for split 'validation' that are not of the training
      examples; None holds some of these out.
    confusions: the class for which a class is mistaken, for asymmetric label
      noise; None if there is no such convention.
    classes: their names, in the order of the labels; None if they have none.
    domains: names of the domains that the training examples are from, in the
      order of their numbers; None if there are none.
  """

  train: Examples
  test: Examples | None
  num_classes: int
  mean: tuple[float, ...]
  std: tuple[float, ...]
  num_validation: int = 0
  extra: Examples | None = None
  validation: Examples | None = None
  confusions: label_noise_lib.Confusions | None = None
  classes: tuple[str, ...] | None = None
  domains: tuple[str, ...] | None = None

  @property
  def splits(self) -> dict[str, Examples]:
    """The splits that there are, by name."""
    named = {
      'train': self.train,
      'extra': self.extra,
      'test': self.test,
      'validation': self.validation,
    }
    return {
      k: examples for k, examples in named.items() if examples is not None
    }


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A data set as a run uses it.

  Attributes:
    name: the name it was created by.
    train: examples to train on, label noise included.
    evaluation: examples to evaluate on, always with clean labels.
    num_classes: labels lie in [0, num_classes).
    mean: of each channel, for images scaled to [0, 1].
    std: likewise.
    classes: their names; None if they have none.
    source: what it was made from, as its authors published it: before a split
      was cut off or a label changed. None if that is not known.
    domains: names of those of the training examples; None if there are none.
  """

  name: str
  train: Examples
  evaluation: Examples
  num_classes: int
  mean: tuple[float, ...]
  std: tuple[float, ...]
  classes: tuple[str, ...] | None = None
  source: Source | None = None
  domains: tuple[str, ...] | None = None

  @property
  def info(self) -> dict[str, Any]:
    """What it takes to use a model without the data set, as JSON."""
    return {
      'num_classes': self.num_classes,
      'image_shape': list(self.train.images.shape[1:]),
      'mean': list(self.mean),
      'std': list(self.std),
      'classes': self.classes and list(self.classes),
    }

  @property
  def training_info(self) -> dict[str, Any]:
    """What a method may have to know of the training examples besides."""
    counts = np.bincount(self.train.labels, minlength=self.num_classes)
    return {
      'class_counts': counts.tolist(),
      'domains': self.domains and list(self.domains),
    }


_IMAGES = 'images'

Loader = Callable[..., Any]  # of images, it returns a `Source`
_LOADERS: dict[str, Loader] = {}
_KINDS: dict[str, str] = {}  # what those are of that are not of images


def register(
  name: str, *more: object, kind: str = _IMAGES
) -> Callable[[Loader], Loader]:
  """Makes a data set known to `create`; a decorator.

  Args:
    name: what a config calls it.
    *more: refused; the error says how to register.
    kind: what it is of. This module's `create` loads images.

  Returns:
    A decorator for a loader `(directory, seed, **options) -> Source`.
    `directory` is None or where the user keeps the files; `seed` is that of
    the data (only a data set without an official split needs it).

  Raises:
    ValueError: the name is taken, what is decorated cannot be called, or
      `register` is not used as a decorator.

  Example:
    >>> from sam_jax import datasets
    >>> @datasets.register('doctest_blank')
    ... def load(directory, seed, *, size=4):
    ...   labels = np.arange(10, dtype=np.int32) % 2
    ...   images = np.zeros((10, size, size, 1), np.uint8)
    ...   blank = datasets.Examples(images, labels)
    ...   return datasets.Source(blank, blank, 2, (0.5,), (0.5,))
    >>> datasets.create('doctest_blank', size=8).train.images.shape
    (10, 8, 8, 1)
  """
  registration.check_call('datasets', name, *more)

  def add(loader: Loader) -> Loader:
    registration.check_new('data set', name, _LOADERS, loader)
    _LOADERS[name] = loader
    if kind != _IMAGES:
      _KINDS[name] = kind
    return loader

  return add


def names(kind: str = _IMAGES) -> list[str]:
  """Returns the names of the data sets of a kind, sorted."""
  return sorted(name for name in _LOADERS if _kind(name) == kind)


def create(
  name: str,
  *,
  directory: str | None = None,
  split: str = 'test',
  seed: int = 0,
  label_noise: float = 0.0,
  label_noise_kind: str = 'symmetric',
  **loader_options: object,
) -> Dataset:
  """Loads a data set: into memory, or as encoded images.

  Args:
    name: one of `names()`.
    directory: where its files are; None for the usual places.
    split: what to evaluate on. 'test' trains on all training examples;
      'validation' holds out the last tenth of them, with the boundaries of
      the official release.
    seed: of the label noise, and of the split where none is official.
    label_noise: fraction of the training labels to corrupt, in [0, 1].
    label_noise_kind: see `label_noise.corrupt`.
    **loader_options: of the loader, such as `train_size` of 'digits'; see
      `options`.

  Returns:
    The arrays. Label noise touches neither the validation nor the test
    labels: it is drawn after the validation examples are cut off.

  Raises:
    ValueError: an unknown name, split, option or kind of noise, or examples
      that are not what they should be.
    FileNotFoundError: the files are missing; says how to get them.

  Source: splits as in the official sam_jax/datasets/dataset_source.py
  (`use_test_set`) and section 3.1 of the paper. Differs from the official
  release: there the examples of one host of several are a part of the data
  and label noise does not exist.
  """
  find_loader(name, loader_options)
  lookup.check('split', split, SPLITS)
  label_noise_lib.validate(label_noise, label_noise_kind)
  source = load_source(name, directory=directory, seed=seed, **loader_options)
  train, evaluation = _split(name, source, split)
  labels = label_noise_lib.corrupt(
    train.labels,
    label_noise,
    kind=label_noise_kind,
    num_classes=source.num_classes,
    seed=seed,
    confusions=source.confusions,
  )
  train = train._replace(labels=labels)
  return Dataset(
    name,
    train,
    evaluation,
    source.num_classes,
    source.mean,
    source.std,
    source.classes,
    source,
    source.domains,
  )


def load_source(
  name: str,
  *,
  directory: str | None = None,
  seed: int = 0,
  **loader_options: object,
) -> Source:
  """Loads a data set as its authors published it: all splits that it has.

  Args:
    name: see `create`.
    directory: see `create`.
    seed: of the split where none is official.
    **loader_options: see `create`.

  Raises:
    ValueError: an unknown name or option, or examples that are not what they
      should be.
    FileNotFoundError: the files are missing; says how to get them.
  """
  source = find_loader(name, loader_options)(directory, seed, **loader_options)
  _check_source(name, registration.check_made('data set', name, source, Source))
  return source


def options(name: str) -> list[str] | None:
  """Returns the options of a data set, sorted; None if it takes any.

  Raises:
    ValueError: an unknown name.
  """
  lookup.check('data set', name, sorted(_LOADERS))
  parameters = list(inspect.signature(_LOADERS[name]).parameters.values())[2:]
  if any(p.kind is p.VAR_KEYWORD for p in parameters):
    return None
  return sorted(p.name for p in parameters)


def _kind(name: str) -> str:
  """Returns what a data set is of."""
  return _KINDS.get(name, _IMAGES)


def find_loader(
  name: str, given: dict[str, object], kind: str = _IMAGES
) -> Loader:
  """Returns the loader of a name, to be called with its options.

  Args:
    name: of a data set.
    given: options of the loader.
    kind: what the data set has to be of.

  Raises:
    ValueError: the name is unknown or of another kind, or the data set does not
      have an option.
  """
  if name in _LOADERS and _kind(name) != kind:
    raise ValueError(
      f'data set {name!r} is of {_kind(name)}, and the task takes {kind}: '
      f'{", ".join(names(kind))}'
    )
  lookup.check('data set', name, names(kind))
  allowed = options(name)
  unknown = [] if allowed is None else sorted(set(given) - set(allowed))
  if unknown:
    raise ValueError(
      f'data set {name!r} has no option {unknown}; it has {allowed}'
    )
  lookup.check_types(f'data set {name!r}', _LOADERS[name], given)
  return _LOADERS[name]


def _split(name: str, source: Source, split: str) -> tuple[Examples, Examples]:
  """Returns the examples to train on and those to evaluate on."""
  train, evaluation = source.train, source.test
  if split == 'validation' and source.validation is not None:
    evaluation = source.validation
  elif split == 'validation':
    boundary = len(train.labels) - source.num_validation
    if not 0 < boundary < len(train.labels):
      raise ValueError(
        f'{name}: no validation split of {source.num_validation} of '
        f'{len(train.labels)} training examples; evaluate on split "test"'
      )
    evaluation = train.select(slice(boundary, None))
    train = train.select(slice(boundary))
  if evaluation is None:
    raise ValueError(
      f'{name} has no test examples; evaluate on split "validation", which '
      'holds out a tenth of the training examples'
    )
  if source.extra is not None:
    train = Examples(
      np.concatenate([train.images, source.extra.images]),
      np.concatenate([train.labels, source.extra.labels]),
    )
  return train, evaluation


def _check_source(name: str, source: Source) -> None:
  """Raises ValueError if any of the arrays is not what `Source` promises."""
  shape = source.train.images.shape[1:]
  for split, examples in source.splits.items():
    _check_examples(f'{name}, split {split!r}', examples, shape)
    _check_labels(f'{name}, split {split!r}', examples, source.num_classes)
  names = source.classes
  if names is not None and len({*names}) != source.num_classes:
    raise ValueError(
      f'{name}: {len({*names})} names of classes for {source.num_classes} '
      'classes; give each class a name of its own, or none'
    )
  _check_domains(name, source)
  if not len(source.mean) == len(source.std) == shape[-1]:
    raise ValueError(
      f'{name}: {len(source.mean)} means and {len(source.std)} standard '
      f'deviations for {shape[-1]} channels; give one of each per channel'
    )


def _check_examples(
  what: str, examples: Examples, shape: tuple[int, ...]
) -> None:
  """Raises ValueError unless images and labels have the agreed form."""
  images, labels, _ = examples
  if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
    raise ValueError(
      f'{what}: images are {images.dtype} {list(images.shape)}; they must be '
      'uint8 [n, height, width, channels] with n > 0, and no other number 0'
    )
  if images.shape[1:] != shape:
    raise ValueError(
      f'{what}: images are {list(images.shape[1:])}, those of split "train" '
      f'{list(shape)}; they must agree'
    )
  if labels.dtype != np.int32 or labels.shape != images.shape[:1]:
    raise ValueError(
      f'{what}: labels are {labels.dtype} {list(labels.shape)} for '
      f'{len(images)} images; they must be int32 [{len(images)}]'
    )


def _check_domains(name: str, source: Source) -> None:
  """Raises ValueError unless the training examples are of known domains."""
  names, domains = source.domains, source.train.domains
  if names is None and domains is None:
    return
  if names is None or domains is None:
    raise ValueError(
      f'{name}: give the names of the domains and the domain of each training '
      'example, or neither'
    )
  if source.extra is not None:
    raise ValueError(f'{name}: extra examples have no domain; leave them out')
  count = len({*names})
  if count != len(names) or domains.dtype != np.int32:
    raise ValueError(
      f'{name}: domains are {domains.dtype} with {count} different names of '
      f'{len(names)}; they must be int32, with a name of their own each'
    )
  if domains.shape != source.train.labels.shape or {*domains.tolist()} != {
    *range(count)
  }:
    raise ValueError(
      f'{name}: {len(domains)} domains in {sorted({*domains.tolist()})} for '
      f'{len(source.train.labels)} training examples; there must be one for '
      f'each, and some of all in [0, {count})'
    )


def _check_labels(what: str, examples: Examples, num_classes: int) -> None:
  """Raises ValueError at the first label that is no class."""
  labels = examples.labels
  wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
  if wrong.size:
    raise ValueError(
      f'{what}: label {labels[wrong[0]]} of example {wrong[0]} is out of '
      f'range [0, {num_classes}); {wrong.size} such labels in all'
    )

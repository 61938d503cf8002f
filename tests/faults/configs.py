"""Configs with a value that nobody meant, and what becomes of them.

Every field of every shipped config gets values of other types and of absurd
sizes, set by a config file or typed on a command line. Each has to be taken, or
refused by a ValueError of one line that names it, at once.
"""

import contextlib
import functools
import itertools
import pathlib
import time
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest import mock

import jax
import ml_collections
import numpy as np

from sam_jax import _config_flag, configs, datasets
from sam_jax.datasets import registry
from sam_jax.runs import config_files, preparation
from tests.faults import attempts

CONFIGS = (
  *('default', 'digits', 'digits:noisy', 'cifar10', 'cifar10:shake_shake'),
  *('cifar100', 'fashion_mnist', 'svhn', 'label_noise', 'imagenet'),
  *('image_folder', 'finetune:b7', 'finetune:l2-475'),
)
# Of other types, beyond every range, nested.
VALUES: tuple[Any, ...] = (
  *(None, '', 'x', '0.1', b'', b'x', True, False, 0, -1, 1, 3, 2**31, 2**63),
  *(2**31 - 1, 3.4e38, 1e30, -7, 1e-30, 10, 100),
  *(10**40, -(2**63), 1.5, -0.0, 1e-320, 1e308, -1e308, 0.1),
  *(float('nan'), float('inf'), -float('inf'), (), (1,), (0,), (-1, 2)),
  *((None,), ('x',), (1.5, 0.5), ((1,),), (float('nan'),), (2**63,)),
  *([], [1], {}, {'name': 'x'}, {'name': None}, {1: 2}, 1j, object(), int),
  *(np.float64(0.1), np.int64(3), np.array([1, 2]), range(3), 'none', 'é\n'),
)
TYPED = (
  *('', 'x', 'None', 'none', 'True', 'false', '0', '-1', '1', '3', '1.5'),
  *('nan', 'inf', '-inf', '1e308', '1e999', '2147483648', '1_0', '0x10'),
  *('9223372036854775808', '()', '(1,)', '(', ')', '[1]', '{}', "{'a':1}"),
  *("('x',)", '(None,)', '(nan,)', '1,2', '"', "b'x'", '=', '\\', 'é', '\n'),
  *('__import__("os")', '1;2', '1' * 5000),
)
# What a missing field, or one that nobody knows, would be.
_ODD_NAMES = (
  *('', '.', 'x', 'method', 'method.', '.name', 'method.name.x', 'model.x'),
  *('seed.x', 'data', 'plugins.0', 'method.__class__', 'to_dict', 'method x'),
  *('optimizer.learning_rate', 'optimizer.x', 'schedule.num_steps', 'é'),
)
# A network says which images it takes, and images how they are padded.
_OTHER_WORDS = {'image_size': 'images of', 'padding': 'padded'}
# Fields for which files may be missing.
_PATHS = ('data', 'data.directory', 'data.name', 'init_from', 'labels_from')
_SLOW, _HANGS = 2, 60  # seconds
_LONGEST = 1500  # characters of an answer


class Mutation(NamedTuple):
  """A field of a config with another value.

  Attributes:
    config: name of a shipped config.
    field: dotted name.
    value: of any type; or the text after the '=' on a command line.
    is_typed: whether it is such a text.
  """

  config: str
  field: str
  value: Any
  is_typed: bool


@functools.cache
def _shipped(name: str) -> ml_collections.ConfigDict:
  return config_files.read(configs.find(name))


@functools.cache
def _all() -> list[Mutation]:
  return [mutation for name in CONFIGS for mutation in _of(name)]


def _of(name: str) -> Iterator[Mutation]:
  fields = config_files.names(_shipped(name))
  for field, value in itertools.product(fields, VALUES):
    yield Mutation(name, field, value, is_typed=False)
  for field, text in itertools.product((*fields, *_ODD_NAMES), TYPED):
    yield Mutation(name, field, text, is_typed=True)


def mutations(seed: int, count: int | None = None) -> list[Mutation]:
  """Returns some mutations, or all, in a random order."""
  found = _all()
  order = np.random.default_rng(seed).permutation(len(found))
  return [found[i] for i in order[:count]]


def _stand_in(name: str, loader: registry.Loader) -> registry.Loader:
  """Returns a loader that takes the same options and reads nothing."""
  side, channels, num_classes = 32, 3, 10
  if name == 'fashion_mnist':
    side, channels = 28, 1

  @functools.wraps(loader)
  def load(directory: Any, seed: Any, **options: Any) -> datasets.Source:
    size = options.get('image_size', side)
    if size < 1:
      raise ValueError(f'image_size is {size}; it must be at least 1')
    # Of no size in memory, as what is still encoded.
    images = np.broadcast_to(np.uint8(0), (5000, size, size, channels))
    labels = np.arange(5000, dtype=np.int32) % num_classes
    examples = datasets.Examples(images, labels)
    scale = (0.5,) * channels
    confusions = registry.Source.__dataclass_fields__['confusions'].default
    return datasets.Source(
      examples,
      examples,
      num_classes,
      scale,
      scale,
      num_validation=500,
      confusions=confusions,
    )

  return load


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
  """Lets data sets that would have to be fetched be there."""
  loaders = {
    name: loader if name == 'digits' else _stand_in(name, loader)
    for name, loader in registry._LOADERS.items()
  }
  with mock.patch.dict(registry._LOADERS, loaders):
    yield


def _small(mutation: Mutation) -> ml_collections.ConfigDict:
  """Returns the config with a network and sizes that are made at once."""
  config = config_files.read(configs.find(mutation.config))
  with config.unlocked():
    # Fields of other sections are tried with a network that is made at once.
    if mutation.field.split('.')[0] != 'model':
      config.model.name = 'cnn'
      for field in config.model:
        if field != 'name':
          config.model[field] = None
      config.model.features = (4,)
      config.model.hidden = 8
    elif config.model.get('norm') == 'frozen':
      config.model.norm = 'batch'
    devices = jax.device_count()
    if config.batch_size % devices:
      config.batch_size = config.m = 8 * devices
      config.microbatch_size = devices
  return config.lock()


def _mutated(mutation: Mutation) -> ml_collections.ConfigDict:
  """Returns the config as a file, or a command line, would make it."""
  config = _small(mutation)
  field, value = mutation.field, mutation.value
  if mutation.is_typed:
    typed = [f'--config.{field}={value}']
    overrides, rest = _config_flag.split(typed)
    if rest:  # the other flags are parsed then, and have none of that name
      raise ValueError(f'unknown flag for field {field}: {rest}')
    _config_flag.override(config, overrides)
    return config
  *parents, last = field.split('.')
  content = config.to_dict()
  section = content
  for parent in parents:
    section = section[parent]
  section[last] = value
  return ml_collections.ConfigDict(content)


def _is_named(field: str, message: str) -> bool:
  """Whether a message says which field it is about."""
  *sections, name = field.split('.')
  words = sections[-1:] if name == 'name' and sections else [name]
  if _OTHER_WORDS.get(name, '?') in message:
    return True
  return all(word in message for word in ' '.join(words).split('_'))


def attempt(mutation: Mutation) -> attempts.Attempt:
  """Tries a mutation as far as the first step; see `stand_ins`.

  The seconds are of the processor. Networks of other fields than the model's
  own are traced at once; some of the model's take a while.
  """
  start = time.process_time()
  outcome, fault = 'refused', ''
  try:
    preparation.prepare(_mutated(mutation))
    outcome = 'taken'
  except ValueError as error:
    fault = _fault_of(mutation, str(error))
  except FileNotFoundError as error:
    if mutation.field not in _PATHS:
      fault = f'FileNotFoundError: {error}'
  except Exception as error:
    outcome, fault = 'raised', f'{type(error).__name__}: {error}'
  seconds = time.process_time() - start
  if seconds > (_HANGS if mutation.field.startswith('model') else _SLOW):
    fault = fault or f'took {seconds:.1f} s'
  if fault:
    fault = f'{str(mutation)[:150]}: {fault[:300]}'
  return attempts.Attempt(outcome, fault, seconds)


def _fault_of(mutation: Mutation, message: str) -> str:
  """Returns what is wrong with an answer."""
  # A command line prints what was typed in one line.
  line = ' '.join(message.split()) if mutation.is_typed else message.strip()
  if '\n' in line:
    return f'several lines: {line}'
  if not _is_named(mutation.field, line):
    return f'does not name the field: {line}'
  return f'too long: {line}' if len(line) > _LONGEST else ''


def trial(
  directory: pathlib.Path, count: int, seed: int
) -> Iterator[attempts.Attempt]:
  """Yields what comes of some mutations.

  Args:
    directory: nothing is written.
    count: how many.
    seed: of the choice.
  """
  del directory
  with stand_ins():
    yield from map(attempt, mutations(seed, count))

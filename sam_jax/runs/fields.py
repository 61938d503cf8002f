"""The types of a config's fields, and numbers that no field may have.

ml_collections keeps a field's type where it is set by assignment. A config may
also be made of dicts, or its fields set with the type ignored, so that all of
it is looked at before anything is made of it. What the sections of a method, a
model, ... hold is checked by the annotations of the factory that they name, see
`lookup.check_types`.
"""

import math
from collections.abc import Iterator
from typing import Any

import ml_collections
import numpy as np

from sam_jax import lookup

_ROOT: dict[str, Any] = {
  'allow_change': tuple[str, ...],
  'batch_size': int,
  'compute_dtype': str,
  'deterministic': bool,
  'eval_batch_size': int,
  'eval_every_epochs': int,
  'eval_train': bool,
  'fsdp': int,
  'gradient_clipping': float,
  'init_from': str,
  'label_smoothing': float,
  'labels_from': str,
  'learning_rate': float,
  'm': int | None,
  'matmul_precision': str | None,
  'max_skipped_steps': int,
  'microbatch_loop': str,
  'microbatch_size': int | None,
  'num_epochs': int,
  'num_steps': int | None,
  'on_nonfinite': str,
  'parallel': str,
  'plugins': tuple[str, ...],
  'seed': int,
}
# Sections with these fields and no others.
CLOSED: dict[str, dict[str, Any]] = {
  'augmentation': {
    'constants': str,
    'cutout_length': int,
    'cutout_per': str,
    'magnitude': int,
    'name': str,
    'num_layers': int,
    'padding': int,
    'policy': str,
  },
  'checkpoint': {
    'at_epochs': tuple[int, ...],
    'every_epochs': int,
    'every_steps': int | None,
    'keep_best': bool,
    'max_to_keep': int,
  },
  'ema': {'decay': float, 'warmup_steps': int},
  'log': {
    'every_steps': int,
    'progress_seconds': float,
    'tensorboard': bool,
    'writers': tuple[str, ...],
  },
  'mixing': {'alpha': float, 'name': str, 'probability': float},
  'weight_decay': {'exclude': str, 'place': str, 'rate': float},
}
# Sections whose name picks a factory, with what is read here besides.
OPEN: dict[str, dict[str, Any]] = {
  'data': {
    'directory': str | None,
    'label_noise': float,
    'label_noise_kind': str,
    'seed': int,
    'split': str,
    'tokenizer': str | None,
  },
  'method': {},
  'model': {'norm': str | None},
  'optimizer': {},
  'schedule': {'warmup_epochs': float, 'warmup_steps': int | None},
  'task': {},
}
# Where infinity means something; NaN never does.
_INFINITE = ('method.p',)
# Numbers that only the host sees.
_LONG = ('data.seed',)
_LARGEST_INT = 2**31 - 1
_LARGEST_FLOAT = float(np.finfo(np.float32).max)
_MISSING = object()


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses a config that lacks a field, or has one of another type.

  Args:
    config: of a run.

  Raises:
    ValueError: the message names the field, its value and what it may be.
  """
  _check_values('', config, _ROOT)
  known = sorted([*_ROOT, *CLOSED, *OPEN])
  if unknown := [key for key in config if key not in known]:
    raise lookup.unknown('field of a config', unknown[0], known)
  for name, kinds in CLOSED.items():
    section = _section(config, name)
    _check_values(f'{name}.', section, kinds)
    if unknown := [key for key in section if key not in kinds]:
      raise ValueError(
        f"the config has no field '{name}.{unknown[0]}'; {name} has "
        f'{", ".join(kinds)}'
      )
  for name, kinds in OPEN.items():
    section = _section(config, name)
    _check_values(f'{name}.', section, {'name': str})
    given = {key: kind for key, kind in kinds.items() if key in section}
    _check_values(f'{name}.', section, given)
    if odd := [key for key in section if not isinstance(key, str)]:
      raise ValueError(f'{name} has a field {odd[0]!r}; a name is a text')
  for field, value in _leaves('', config):
    if isinstance(value, (int, float)):
      _check_number(field, value)
    elif not isinstance(value, str | None):
      raise ValueError(
        f'{field} is {lookup.shown(value)}; a config holds numbers, texts, '
        'tuples, True, False and None'
      )


def _check_number(field: str, value: float) -> None:
  """Refuses a number that is none to a step, which has 32 bits for each."""
  if isinstance(value, int):
    if abs(value) > _LARGEST_INT and field not in _LONG:
      raise ValueError(
        f'{field} is {lookup.shown(value)}; a whole number is at most '
        f'{_LARGEST_INT} in size'
      )
  elif math.isinf(value) and field in _INFINITE:
    return
  elif not abs(value) <= _LARGEST_FLOAT:  # NaN too
    raise ValueError(
      f'{field} is {value}; it must be a finite number, at most '
      f'{_LARGEST_FLOAT:.3g} in size'
    )


def _section(
  config: ml_collections.ConfigDict, name: str
) -> ml_collections.ConfigDict:
  """Returns a section."""
  section = config.get(name, _MISSING)
  if not isinstance(section, ml_collections.ConfigDict):
    raise _refused(name, section, 'a section, as in')
  return section


def _check_values(
  prefix: str, section: ml_collections.ConfigDict, kinds: dict[str, Any]
) -> None:
  """Refuses fields of a section that are missing or of another type."""
  for key, kind in kinds.items():
    value = section.get(key, _MISSING)
    if value is _MISSING:
      raise _refused(f'{prefix}{key}', value, '')
    if not lookup.fits(value, kind):
      raise ValueError(lookup.mismatch(f'{prefix}{key}', value, kind))


def _refused(name: str, value: object, wanted: str) -> ValueError:
  """Returns the error for a config that is not made from the defaults."""
  advice = 'sam_jax/configs/default.py, from which a config is made'
  if value is _MISSING:
    return ValueError(f'the config has no field {name!r}; see {advice}')
  return ValueError(
    f'{name} is {lookup.shown(value)}; it must be {wanted} {advice}'
  )


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
  """Yields every value that holds no others, with its field."""
  if isinstance(value, (ml_collections.ConfigDict, dict)):
    for key in value:
      name = f'{prefix}.{key}' if prefix else str(key)
      yield from _leaves(name, value[key])
  elif isinstance(value, (tuple, list)):
    for inner in value:
      yield from _leaves(prefix, inner)
  else:
    yield prefix, value


def fill_method(config: ml_collections.ConfigDict) -> None:
  """Sets the fields of the method that are None to the method's own defaults.

  They become part of the run, whatever the defaults will be one day.

  Args:
    config: is changed; an unknown method is left to whoever makes it.
  """
  section, defaults = _method(config)
  with section.unlocked():
    for field, value in defaults.items():
      if section.get(field) is None:
        section[field] = value


def unset_defaults(config: ml_collections.ConfigDict) -> None:
  """Sets the fields that `fill_method` would fill in the same way to None.

  The defaults of a method mean nothing to another one that the user chooses.

  Args:
    config: of a run that has been made; is changed.
  """
  section, defaults = _method(config)
  with section.unlocked():
    for field, value in defaults.items():
      if section.get(field) == value:
        section[field] = None


def _method(
  config: ml_collections.ConfigDict,
) -> tuple[ml_collections.ConfigDict, dict[str, Any]]:
  """Returns the section of the method, and the defaults of a known one."""
  from sam_jax import methods

  section = config.get('method')
  if not isinstance(section, ml_collections.ConfigDict):  # of another program
    return ml_collections.ConfigDict(), {}
  name = section.get('name')
  return section, methods.defaults(name) if name in methods.names() else {}

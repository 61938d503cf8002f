"""What titles, axes and legends say, in place of the names of config fields."""

from collections.abc import Iterable, Mapping
from typing import Any

SPLITS = {'train': 'training'}
# Sections whose fields need no further word to be understood.
_PLAIN = ('method', 'model', 'data', 'task')
# Fields whose value says it all.
_VALUES = ('method.name', 'model.name', 'data.name', 'task.name')
_COUNTS = {
  'num_epochs': 'epochs',
  'num_steps': 'steps',
  'method.ascent_steps': 'ascent steps',
}
_NAMES = {'m': 'm', 'method.rho': 'rho', 'data.split': 'split'}
# What a title says of the data and the model, if it is the same everywhere.
_SUBJECT = ('data.name', 'data.label_noise', 'model.name')
# Fields on an axis.
_AXES = {
  'method.rho': 'rho, radius of the perturbation',
  'm': 'm, examples that share one perturbation',
}


def split(name: str) -> str:
  """Returns the word for a split: 'training', 'validation' or 'test'."""
  return SPLITS.get(name, name)


def axis(field: str) -> str:
  """Returns what the axis of a field is called."""
  return _AXES.get(field, label(field))


def label(field: str) -> str:
  """Returns a readable name of a config field.

  Example:
    >>> from sam_jax.drawing import words
    >>> words.label('method.rho'), words.label('optimizer.weight_decay')
    ('rho', 'optimizer weight decay')
  """
  if field in _NAMES:
    return _NAMES[field]
  parts = field.split('.')
  if len(parts) > 1 and (parts[0] in _PLAIN or parts[-1] == 'name'):
    parts = parts[1:] if parts[0] in _PLAIN else parts[:-1]
  return ' '.join(parts).replace('_', ' ')


def fields(values: Mapping[str, Any]) -> str:
  """Returns config fields in a few words, without those that say nothing.

  Example:
    >>> from sam_jax.drawing import words
    >>> words.fields({'method.name': 'sam', 'm': 4, 'data.label_noise': 0.4})
    'sam, m = 4, 40 % label noise'
  """
  # What needs no name comes first: 'sam, m = 4'.
  ordered = sorted(values.items(), key=lambda item: item[0] not in _VALUES)
  said = (_said(name, value) for name, value in ordered)
  return ', '.join(text for text in said if text)


def title(runs: Iterable[Mapping[str, Any]], what: str) -> str:
  """Returns 'digits, cnn: test error', with what all runs have in common.

  Args:
    runs: the config fields of each run that is shown; none if not known.
    what: is shown of them.
  """
  runs = list(runs)
  same = {
    name: runs[0][name]
    for name in (_SUBJECT if runs else ())
    if runs[0].get(name) and len({repr(run.get(name)) for run in runs}) == 1
  }
  return f'{fields(same)}: {what}' if same else what[:1].upper() + what[1:]


def _said(name: str, value: Any) -> str:
  """Returns one field with its value, '' if there is nothing to say."""
  if value is None or value in ('', 'none'):
    return ''
  if name in _VALUES:
    return str(value)
  if name in _COUNTS:
    return f'{value:,} {_COUNTS[name]}'
  if name == 'data.split':
    return f'{split(value)} split'
  if name == 'data.label_noise':
    return f'{100 * value:g} % label noise'
  if name.endswith('.name'):
    return f'{value} {label(name)}'
  if isinstance(value, bool):
    return label(name) if value else f'no {label(name)}'
  shown = f'{value:g}' if isinstance(value, float) else str(value)
  return f'{label(name)} = {shown}'


def seeds(counts: Iterable[int]) -> str:
  """Returns what an interval over seeds is of, for a title.

  Args:
    counts: numbers of seeds of what is shown.
  """
  found = sorted(set(counts))
  if found == [1]:
    return 'one seed each'
  span = f'{found[0]}' if len(found) == 1 else f'{found[0]} to {found[-1]}'
  return f'mean and 95 % confidence interval over {span} seeds'


def join(texts: Iterable[str], by: str = ' and ') -> str:
  """Returns different texts once each: 'test error and validation error'."""
  return by.join(dict.fromkeys(filter(None, texts)))

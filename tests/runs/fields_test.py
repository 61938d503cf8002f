"""The types of the fields: all of them are looked at before a run is made."""

import math
from collections.abc import Callable, Sequence

import ml_collections
import numpy as np
import pytest

from sam_jax import lookup
from sam_jax.configs import default
from sam_jax.runs import fields
from tests import tiny


def _kinds():
  """Returns {dotted name: type}, of the table."""
  found = dict(fields._ROOT)
  for name, kinds in {**fields.CLOSED, **fields.OPEN}.items():
    found |= {f'{name}.{key}': kind for key, kind in kinds.items()}
  return found


def test_the_table_has_every_field_of_the_defaults_with_its_type():
  config, kinds = default.get_config(), _kinds()
  for name, value in config.items():
    if not isinstance(value, ml_collections.ConfigDict):
      assert name in kinds, f'{name} is missing in runs/fields.py'
    elif name in fields.CLOSED:
      assert sorted(value) == sorted(fields.CLOSED[name])
    else:
      assert name in fields.OPEN
  for name, kind in kinds.items():
    section, _, key = name.rpartition('.')
    owner = config[section] if section else config
    examples = {int: 1, float: 0.5, str: 'x', bool: True, tuple: ()}
    assert lookup.fits(examples[owner.get_type(key)], kind), name
    assert lookup.fits(owner[key], kind), name


def _with(name, value):
  """A config made of dicts, in which ml_collections checks nothing."""
  content = tiny.config().to_dict()
  *sections, last = name.split('.')
  section = content
  for key in sections:
    section = section[key]
  if value is None and name in ('method', 'm', 'ema.decay'):
    del section[last]
  else:
    section[last] = value
  return ml_collections.ConfigDict(content)


@pytest.mark.parametrize(
  ('name', 'value', 'message'),
  [
    ('batch_size', True, 'batch_size is True; it must be a whole number'),
    ('batch_size', 2.0, r'batch_size is 2\.0; it must be a whole number'),
    ('m', '4', "m is '4'; it must be a whole number or None"),
    ('m', None, "the config has no field 'm'; see .*default.py"),
    ('ema.decay', None, "the config has no field 'ema.decay'"),
    ('learnin_rate', 0.1, "unknown field of a config 'learnin_rate'; known: "),
    ('ema.x', 1, "the config has no field 'ema.x'; ema has decay, warmup"),
    ('method', 3, 'method is 3; it must be a section'),
    ('method', None, "the config has no field 'method'"),
    ('method.rho', math.nan, 'method.rho is nan; it must be a finite number'),
    ('learning_rate', math.inf, 'learning_rate is inf; it must be a finite'),
    ('learning_rate', 1e39, r'learning_rate is 1e\+39; it must be a finite'),
    ('schedule.boundaries', (0.5, math.nan), 'schedule.boundaries is nan'),
    ('model.mine', ((1.0, -math.inf),), 'model.mine is -inf'),
    ('model.mine', {'a': math.nan}, 'model.mine.a is nan'),
    ('data.mine', 1j, 'data.mine is 1j; a config holds numbers, texts'),
    ('model.mine', (b'x',), "model.mine is b'x'; a config holds numbers"),
    ('num_steps', 2**31, 'num_steps is 2147483648; a whole number is at most'),
    ('plugins', 'os', "plugins is 'os'; it must be a tuple, each of it a text"),
    ('seed', 'x' * 999, 'seed is .{80}[.]{3}; it must be a whole number'),
  ],
)
def test_a_value_that_is_none_is_refused_and_named(name, value, message):
  with pytest.raises(ValueError, match=f'^{message}'):
    fields.check(_with(name, value))


def test_what_means_something_is_taken():
  fields.check(_with('method.p', math.inf))
  fields.check(_with('learning_rate', 1))
  fields.check(_with('data.seed', 2**40))


def test_a_factory_takes_what_its_annotations_say():
  def factory(
    a: tuple[int, float],
    b: 'int | str | None' = None,
    c=3,
    d: np.dtype | None = None,
    e: Callable[[int], int] = abs,
    f: Sequence = (),
    **rest: float,
  ): ...

  # A dtype has many names, and a function no type that could be told.
  taken = {'a': (1, 2), 'b': 'x', 'c': object, 'd': 'float32', 'e': 3, 'f': 4}
  lookup.check_types('it', factory, taken)
  for given, message in (
    ({'a': (1,)}, 'it: a is'),
    ({'a': (1.5, 1)}, 'it: a is'),
    ({'b': 1.5}, 'it: b is 1.5; it must be a whole number or a text or None'),
    ({'b': True}, 'it: b is True'),
  ):
    with pytest.raises(ValueError, match=message):
      lookup.check_types('it', factory, given)

"""The grid of a sweep without a file: FIELD=VALUE,VALUE FIELD=VALUE,VALUE.

What the values are, a field of the config says; here they are texts.
"""

import itertools
from collections.abc import Iterator, Sequence

_OPENING, _CLOSING, _QUOTES = '([{', ')]}', '\'"'
_FORM = 'FIELD=VALUE,VALUE, such as method.rho=0.05,0.1'


def combinations(axes: Sequence[str]) -> list[dict[str, str]]:
  """Returns every combination of one value of each field, as texts.

  Args:
    axes: a field with its values each, separated by commas. A comma in brackets
      or quotes belongs to a value.

  Raises:
    ValueError: a text does not have this form, or a field or a value is there
      twice.

  Example:
    >>> from sam_jax.sweeps import grid
    >>> grid.combinations(['m=5', 'model.features=(4,8),(8,16)'])
    [{'m': '5', 'model.features': '(4,8)'}, {'m': '5', 'model.features': \
'(8,16)'}]
  """
  values: dict[str, list[str]] = {}
  for axis in axes:
    name, separator, text = axis.partition('=')
    found = list(_split(text))
    if not separator or not name or not all(found):
      raise ValueError(f'--grid has {axis!r}; it must have the form {_FORM}')
    if name in values:
      raise ValueError(f'--grid has {name} twice; give all its values at once')
    if twice := next((v for v in found if found.count(v) > 1), None):
      raise ValueError(f'--grid has {name}={twice} twice; give each value once')
    values[name] = found
  return [
    dict(zip(values, chosen, strict=True))
    for chosen in itertools.product(*values.values())
  ]


def _split(text: str) -> Iterator[str]:
  """Yields the parts of a text between commas that are in no brackets."""
  start, depth, quote = 0, 0, ''
  for place, character in enumerate(text):
    if quote or character in _QUOTES:
      closes = character == quote
      quote = '' if closes else quote or character
    elif character in _OPENING:
      depth += 1
    elif character in _CLOSING:
      depth -= 1
    elif character == ',' and depth == 0:
      yield text[start:place].strip()
      start = place + 1
  yield text[start:].strip()


def take(argv: Sequence[str]) -> list[str]:
  """Returns arguments of a command in which each --grid has one field.

  A command line may give several, as in --grid m=5,25 seed=0,1.

  Example:
    >>> from sam_jax.sweeps import grid
    >>> grid.take(['sweep', '--grid', 'm=5', 'seed=0,1', '--workers=2'])
    ['sweep', '--grid=m=5', '--grid=seed=0,1', '--workers=2']
  """
  taken: list[str] = []
  is_grid = False
  for argument in argv:
    if argument in ('--grid', '-grid'):
      is_grid = True
    elif argument.startswith('-'):
      is_grid = argument.startswith(('--grid=', '-grid='))
      taken.append(argument)
    else:
      taken.append(f'--grid={argument}' if is_grid else argument)
  return taken

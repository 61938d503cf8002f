"""A list of methods, as a command line gives it: 'sgd,sam(p=1|2),looksam'.

It has the form of a Python expression: names, and calls with fields by keyword.
A field has one value, or several, separated by |, of which one is chosen.
"""

import ast
import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sam_jax import lookup, methods
from sam_jax.methods import choices

Values = tuple[Any, ...]

RHO = 'rho'
_FORM = (
  'write NAME or NAME(FIELD=VALUE, FIELD=VALUE|VALUE), separated by commas'
)


@dataclasses.dataclass(frozen=True)
class Entry:
  """A method of a list.

  Attributes:
    name: of the registry.
    values: those to try of each field that is given, by the field's name.
  """

  name: str
  values: Mapping[str, Values]

  @property
  def label(self) -> str:
    """The method with the fields that have one value: 'looksam(every=5)'."""
    fixed = {k: v[0] for k, v in self.values.items() if len(v) == 1}
    return f'{self.name}({text(fixed)})' if fixed else self.name

  def candidates(self, rho_factors: Sequence[float]) -> list[dict[str, Any]]:
    """Returns the fields of each way to run the method.

    Args:
      rho_factors: by which the method's default rho is multiplied, if it has a
        rho and the list gives none.

    Raises:
      ValueError: the method has a rho, and no default to multiply.
    """
    values = dict(self.values)
    if RHO not in values and RHO in (methods.options(self.name) or ()):
      values[RHO] = _multiples(self.name, rho_factors)
    return [
      dict(zip(values, chosen, strict=True))
      for chosen in itertools.product(*values.values())
    ]


def text(fields: Mapping[str, Any]) -> str:
  """Returns fields as a list has them: 'rho=0.1, every=5'."""
  return ', '.join(f'{name}={value}' for name, value in fields.items())


def parse(given: str) -> list[Entry]:
  """Returns the methods of a list.

  Raises:
    ValueError: the text is no such list; a method is not known, takes no such
      field, or is there twice; or it has several values of more than one field
      besides rho.

  Example:
    >>> from sam_jax.sweeps import method_list
    >>> [entry.values for entry in method_list.parse('sgd,sam(p=1|2)')]
    [{}, {'p': (1, 2)}]
  """
  try:
    body = ast.parse(given.strip(), mode='eval').body
  except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
    raise ValueError(f'{lookup.shown(given)} is no list; {_FORM}') from error
  nodes = body.elts if isinstance(body, ast.Tuple) else [body]
  if not nodes:
    raise ValueError(f'the list of methods is empty; {_FORM}')
  entries = list(map(_entry, nodes))
  labels = [entry.label for entry in entries]
  for label in labels:
    if labels.count(label) > 1:
      raise ValueError(
        f'{label} is there twice; list each method once, or give one of the '
        'two a field'
      )
  return entries


def _entry(node: ast.expr) -> Entry:
  """Returns a method of a list."""
  called, keywords = node, list[ast.keyword]()
  if isinstance(node, ast.Call) and not node.args:
    called, keywords = node.func, node.keywords
  name = _value(called)
  if not isinstance(name, str):
    raise _refused(node)
  lookup.check('method', name, methods.names())
  values = dict(sorted(_fields(keywords)))
  _check_fields(name, values)
  return Entry(name, values)


def _fields(keywords: Sequence[ast.keyword]) -> Iterator[tuple[str, Values]]:
  """Yields the fields of a method, and the values of each."""
  for keyword in keywords:
    if keyword.arg is None:  # **fields
      raise _refused(keyword.value)
    yield keyword.arg, tuple(map(_value, _alternatives(keyword.value)))


def _alternatives(node: ast.expr) -> list[ast.expr]:
  """Returns the values that are separated by |."""
  if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
    return [*_alternatives(node.left), *_alternatives(node.right)]
  return [node]


def _value(node: ast.expr) -> Any:
  """Returns a value; a word needs no quotes."""
  with contextlib.suppress(ValueError, TypeError):
    return choices.literal(node)
  raise _refused(node)


def _refused(node: ast.expr) -> ValueError:
  """Returns the error for a part of a list that has another form."""
  return ValueError(
    f'{ast.unparse(node)!r} has no place in a list of methods; {_FORM}'
  )


def _check_fields(name: str, values: Mapping[str, Values]) -> None:
  """Refuses fields that a method does not take, and too many to choose."""
  options = methods.options(name)
  for field, tried in values.items():
    if field == 'name' or (options is not None and field not in options):
      raise ValueError(
        f'method {name!r} takes no {field}; it takes '
        f'{", ".join(options or ()) or "no fields"}'
      )
    if field == RHO and None in tried:
      raise ValueError(f'{name} has rho=None; leave rho out, or give numbers')
    if len(set(map(repr, tried))) < len(tried):
      raise ValueError(f'{name} has a value of {field} twice; give it once')
  varied = [k for k, v in values.items() if len(v) > 1 and k != RHO]
  if len(varied) > 1:
    raise ValueError(
      f'{name} has several values of {" and ".join(varied)}; besides rho, one '
      'field can be chosen'
    )


def _multiples(name: str, factors: Sequence[float]) -> Values:
  """Returns multiples of a method's default rho, without what rounding adds."""
  default = methods.defaults(name).get(RHO)
  if not default:
    raise ValueError(
      f'method {name!r} has no default rho to multiply by --rho_factors; give '
      f'values, as in {name}(rho=0.1|0.2)'
    )
  return tuple(float(f'{factor * default:.6g}') for factor in factors)

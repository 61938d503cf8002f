r"""Prints what a model is made of: the command line.

    python -m sam_jax.models WideResnet28x10 --depth 2
    python -m sam_jax.models pyramidnet --set depth=110 --set alpha=48
    python -m sam_jax.models gpt2 --classes 50257 --size 1024

Without a name, it lists the known ones. Nothing is compiled, no data is read.
Exit status: 0 done, 2 something is wrong with the arguments.
"""

import argparse
import ast
import sys
from collections.abc import Sequence
from typing import NoReturn

import jax
from flax import linen as nn

from sam_jax import models
from sam_jax.models import summary

_WINDOW = 128  # tokens, where neither the window nor the context is given


class _Parser(argparse.ArgumentParser):
  """Raises what is wrong, for one line without the usage before it."""

  def error(self, message: str) -> NoReturn:
    """Raises ValueError."""
    raise ValueError(f'{message}; --help lists the arguments')


def main(argv: Sequence[str]) -> int:
  """Prints what the arguments ask for; returns the exit status."""
  try:
    print(_run(_parser().parse_args(argv)))
  except ValueError as error:
    message = ' '.join(str(error).split())
    print(f'sam_jax.models: {message}', file=sys.stderr)
    return 2
  return 0


def _parser() -> argparse.ArgumentParser:
  """Returns the parser of the command line."""
  parser = _Parser(
    prog='python -m sam_jax.models',
    description='Prints the layers of a model: shapes, parameters, FLOPs.',
    allow_abbrev=False,
  )
  parser.add_argument('name', nargs='?', help='the model; none lists them all')
  parser.add_argument(
    '--classes', type=int, default=10, help='number of logits (%(default)s)'
  )
  parser.add_argument(
    '--size',
    type=int,
    help="height and width of the images (the model's own); of a language "
    'model, tokens of a window (128)',
  )
  parser.add_argument(
    '--channels', type=int, default=3, help='of the images (%(default)s)'
  )
  parser.add_argument(
    '--depth', type=int, default=1, help='levels of modules (%(default)s)'
  )
  parser.add_argument(
    '--set',
    action='append',
    default=[],
    metavar='KEY=VALUE',
    help='an argument of the model, as in config.model; repeatable',
  )
  return parser


def _run(args: argparse.Namespace) -> str:
  """Returns what to print; raises ValueError if it cannot be done."""
  if args.name is None:
    return '\n'.join(models.names())
  for flag in ('classes', 'size', 'channels', 'depth'):
    value = getattr(args, flag)
    if value is not None and value < 1:
      raise ValueError(f'--{flag} is {value}; it must be at least 1')
  settings = dict(map(_setting, args.set))
  try:
    if 'context_length' in (models.options(args.name) or ()):
      settings.setdefault('context_length', args.size or _WINDOW)
    model = models.create(args.name, num_classes=args.classes, **settings)
    shape = _shape(args, model)
    table = summary.summarize(model, shape, depth=args.depth)
  except TypeError as error:
    # Values of another type than a model expects meet its arithmetic.
    raise ValueError(f'model {args.name!r} cannot be built: {error}') from error
  words = 'classes, images' if len(shape) > 1 else 'tokens, windows of'
  size = 'x'.join(map(str, shape))
  return f'{args.name}: {args.classes:,} {words} {size}\n\n{_table(table)}'


def _shape(args: argparse.Namespace, model: nn.Module) -> tuple[int, ...]:
  """Returns the shape of an image, or the number of tokens of a window."""
  if context_length := getattr(model, 'context_length', None):
    return (args.size or context_length,)
  size = args.size or summary.default_size(args.name, model)
  return (size, size, args.channels)


def _setting(text: str) -> tuple[str, object]:
  """Reads 'key=value'; what is no Python literal is a string."""
  key, equals, value = text.partition('=')
  if not (key and equals):
    raise ValueError(f'--set is {text!r}; it must be key=value')
  try:
    return key, ast.literal_eval(value)
  except (ValueError, SyntaxError):
    return key, value


def _table(table: summary.Summary) -> str:
  """Returns rows and totals as text: one line per module, inner ones indented.

  '-' is nothing, or nothing beyond the rows below.
  """
  header = ('module', 'type', 'output', 'parameters', 'statistics', 'FLOPs')
  total = ('total', '', '', *_numbers(table))
  body = [
    (_label(row.path), row.kind, row.output, *_numbers(row))
    for row in table.rows
  ]
  columns = zip(header, total, *body, strict=True)
  widths = [max(map(len, column)) for column in columns]
  lines = [_line(cells, widths) for cells in (header, *body, total)]
  rule = '-' * (sum(widths) + 2 * (len(widths) - 1))
  lines[1:1] = [rule]
  lines[-1:-1] = [rule]
  return '\n'.join([*lines, '', *_totals(table)])


def _label(path: tuple[str, ...]) -> str:
  """Returns the name of a module, indented by its depth."""
  return '  ' * (len(path) - 1) + path[-1] if path else '(the model itself)'


def _numbers(counted: summary.Row | summary.Summary) -> list[str]:
  """Returns the cells of the numbers."""
  numbers = (counted.parameters, counted.statistics, counted.flops)
  return [f'{number:,}' if number else '-' for number in numbers]


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
  """Aligns the two names to the left, shapes and numbers to the right."""
  aligned = zip(cells, '<<>>>>', widths, strict=True)
  return '  '.join(f'{cell:{side}{width}}' for cell, side, width in aligned)


def _totals(table: summary.Summary) -> list[str]:
  """Returns what is said below the table."""
  return [
    f'parameters: {table.parameters:,} '
    f'({table.parameter_bytes / 2**20:,.1f} MiB)',
    f'BatchNorm statistics: {table.statistics:,}',
    f'convolutions and matrix products: {table.flops / 1e9:,.3f} GFLOP '
    f'(= {table.flops / 2e9:,.3f} G multiply-adds) per example',
    f"whole forward pass, by XLA's count: {table.xla_flops / 1e9:,.3f} GFLOP "
    'per example',
  ]


if __name__ == '__main__':
  # A GPU or TPU that something else is running on stays untouched.
  jax.config.update('jax_platforms', 'cpu')
  sys.exit(main(sys.argv[1:]))

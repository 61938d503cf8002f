"""Writes a page for each method in docs/methods/, from its docstring.

    python scripts/method_pages.py          # writes them
    python scripts/method_pages.py --check  # fails if one would be another

The figures of the table are those of docs/methods/measured*.json, which
`python scripts/benchmark_step.py --methods=... --json=...` wrote, and of the
tables in docs/comparison/, which `sam-compare` wrote. What was not measured is
left empty.
"""

import csv
import inspect
import json
import pathlib
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

# The checkout goes first, installed or not.
_ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_ROOT))

from sam_jax import _cli, methods
from sam_jax.methods import choices, parts, registry
from scripts.benchmarking import tables

flags = _cli.Flags()
_CHECK = flags.DEFINE_bool('check', False, 'Whether to write nothing.')

DIRECTORY = _ROOT / 'docs' / 'methods'
COMPARISONS = _ROOT / 'docs' / 'comparison'
# Files of DIRECTORY with measurements, and where they were made.
_MEASURED = {'measured.json': 'a GPU', 'measured_cpu.json': 'two CPU cores'}
# Tables of COMPARISONS that the table of methods quotes, and what they are of.
_QUOTED = {
  'digits': 'error, digits, %',
  'digits_noisy': 'error, digits with 40 % wrong labels, %',
}
_SECTION = re.compile(r'^(Args|Raises|Returns|Example|Source): ?', re.MULTILINE)
_SCHEDULE = ('see `radius.create`', 'see [the axes](README.md#axes)')
_AXES = {
  'direction': parts.DIRECTIONS,
  'metric': parts.METRICS,
  'mask': parts.MASKS,
  'when': parts.WHENS,
  'combine': parts.COMBINES,
}


def main(argv: Sequence[str]) -> int:
  """Writes or checks the pages; returns the exit status."""
  _cli.refuse_arguments(argv[1:])
  wanted = pages()
  if not _CHECK.value:
    DIRECTORY.mkdir(exist_ok=True)
    for path in DIRECTORY.glob('*.md'):
      path.unlink()
    for name, text in wanted.items():
      (DIRECTORY / name).write_text(text, encoding='utf-8')
    print(f'wrote {len(wanted)} pages to {DIRECTORY.relative_to(_ROOT)}')
    return 0
  found = {
    path.name: path.read_text('utf-8') for path in DIRECTORY.glob('*.md')
  }
  if wrong := sorted(
    name for name in wanted | found if wanted.get(name) != found.get(name)
  ):
    print(f'{", ".join(wrong)}: run python scripts/method_pages.py')
    return 1
  return 0


def pages() -> dict[str, str]:
  """Returns the text of each page, by file name."""
  own = {f'{name}.md': _page(name) for name in _names()}
  return {'README.md': _overview(), **own}


def _overview() -> str:
  """Returns the page with the table of all methods, and the axes."""
  measured = [_measured(file) for file in _MEASURED]
  compared = [_compared(name) for name in _QUOTED]
  rows = []
  for name in _names():
    found = [figures.get(name, {}) for figures in measured]
    rows.append(
      [
        f'[{name}]({name}.md)',
        _title(name),
        f'{methods.create(name).gradient_evaluations:.4g}',
        *(_number(each.get('time'), '.2f') for each in found),
        *(_number(each.get('copies'), '.1f') for each in found),
        *(errors.get(name, '') for errors in compared),
      ]
    )
  head = ['method', 'what it is', 'gradients per step']
  head += [f'time on {place}, SGD = 1' for place in _MEASURED.values()]
  head += [
    f'memory on {place} above SGD, in copies of the parameters'
    for place in _MEASURED.values()
  ]
  head += _QUOTED.values()
  axes = '\n\n'.join(
    f'### {field}\n\n{tables.table(["choice", "what it is"], _choices(axis))}'
    for field, axis in _AXES.items()
  )
  return f"""# Methods

How the gradient of a step is obtained. `config.method.name` chooses one, and
the fields on its page are those of `config.method`; in Python each is a
function of `sam_jax.methods`. The table is made by
`python scripts/method_pages.py`. [The comparison](../comparison/README.md) says
how the errors were found, which of them cannot be told apart, and which method
to take. bSAM and SASSHA are [not offered](../optimizers.md).

{tables.table(head, rows)}

{_where(measured)}

## Axes

Every method that perturbs also takes the choices below, but not on the axis
that it stands for: `sam_on` takes no `mask`, `asam` no `metric`. A choice is
written as a name, or a name with arguments:
`--config.method.metric='adaptive(eta=0)'`. Besides, there are

- `every`: perturb in one step of so many (default 1), `start`: share of the
  run before the first step that perturbs, in [0, 1] (0), `probability`: with
  which a step perturbs (1);
- `ascent_share`, `descent_share`, `loss_share`: share of the examples of a
  group that make the first gradient, the second one, or both, in (0, 1] (1);
- `rho_schedule`, `rho_min`: how the radius changes along the run, from rho to
  rho_min: 'constant' (default), 'linear', 'cosine', or with the
  'learning_rate'.

{axes}
"""


def _where(measured: Sequence[Mapping[str, Mapping[str, Any]]]) -> str:
  """Returns what was measured, and what was not."""
  places = [
    next(iter(figures.values()))['where'] for figures in measured if figures
  ]
  return (
    f'Measured with {" and ".join(places)}, by `scripts/benchmark_step.py`, '
    'interleaved. What was not measured is empty: methods that change in the '
    'course of a run, too. The memory is what the compiler plans for a step. '
    'On the CPU the network is small and its activations count: a method '
    'whose two passes do not depend on each other, such as `random`, has those '
    'of both at once, and one that looks at fewer examples has fewer. Small '
    'steps, '
    'which a GPU makes in a few milliseconds, cost more than their share: '
    'there a pass over a quarter of the examples takes as long as one over '
    'all, and a method that chooses between two branches waits for the choice.'
  )


def _choices(axis: choices.Axis) -> list[list[str]]:
  """Returns the rows of the table of an axis."""
  rows = []
  for name in axis.names():
    factory = axis.factory(name)
    arguments = ', '.join(
      str(p).split(':')[0]
      if p.default is p.empty
      else f'{p.name}={p.default!r}'
      for p in inspect.signature(factory).parameters.values()
    )
    text = (inspect.getdoc(factory) or '').split('\n\n')[0].replace('\n', ' ')
    text = text.removeprefix('Returns ')
    text = text[:1].upper() + text[1:]
    rows.append([f'`{name}({arguments})`' if arguments else f'`{name}`', text])
  return rows


def _page(name: str) -> str:
  """Returns the page of a method."""
  sections = _sections(name)
  body = sections[''].partition('\n')[2]
  fields = {
    field: p.default
    for field, p in registry.parameters(name).items()
    if p.kind is not p.VAR_KEYWORD
  }
  text = [f'# {name}', f'{_title(name)}.', fenced(body).strip()]
  cost = methods.create(name).gradient_evaluations
  text.append(f'Declared cost, in gradients per step: {cost:.4g}.')
  for file in _MEASURED:
    if figures := _measured(file).get(name):
      text.append(
        f'Measured: {figures["time"]:.2f} times the step of SGD '
        f'({figures["low"]:.2f} to {figures["high"]:.2f}); {figures["where"]}.'
      )
  if fields:
    meanings = _arguments(sections.get('Args', ''))
    rows = [
      [f'`{field}`', f'`{default!r}`', meanings.get(field, '')]
      for field, default in fields.items()
    ]
    text += [
      '## Fields',
      tables.table(['field', 'default', 'what it is'], rows),
    ]
  if shared := [
    f'`{field}`' for field in methods.options(name) or () if field not in fields
  ]:
    text.append(
      f'It also takes {", ".join(shared)}; see [the axes](README.md#axes).'
    )
  if source := sections.get('Source'):
    text += ['## Source', fenced(source)]
  return '\n\n'.join(part for part in text if part) + '\n'


def _names() -> list[str]:
  """Returns the names of our methods, without those of plug-ins."""
  return [name for name in methods.names() if name in methods.__all__]


def _title(name: str) -> str:
  """Returns what a method is, a few words."""
  text = _sections(name)[''].split('\n')[0].removeprefix('Returns ').rstrip('.')
  return text[:1].upper() + text[1:]


def _sections(name: str) -> dict[str, str]:
  """Returns the sections of a method's docstring by title, '' is the first."""
  text = inspect.getdoc(inspect.unwrap(registry.factory(name))) or ''
  pieces = _SECTION.split(text)
  return {
    '': pieces[0].strip(),
    **{
      title: textwrap.dedent(content).strip()
      for title, content in zip(pieces[1::2], pieces[2::2], strict=True)
    },
  }


def _arguments(text: str) -> dict[str, str]:
  """Returns the meanings of the arguments in a section `Args`."""
  found: dict[str, str] = {}
  name = ''
  for line in text.splitlines():
    if match := re.match(r'(\**\w+): (.*)', line):
      name, line = match.group(1).lstrip('*'), match.group(2)
      found[name] = line.strip()
    else:
      found[name] += f' {line.strip()}'
  return {name: text.replace(*_SCHEDULE) for name, text in found.items()}


def fenced(text: str) -> str:
  """Returns text with its formulas as GitHub shows them."""
  lines, formula, result = text.split('\n'), None, []
  for line in [*lines, '']:
    if formula is not None:
      if line.startswith(' ') or (not line and not formula):
        formula += [line.strip()] if line else []
        continue
      inner = re.sub(r'\\begin\{(\w+)\}.*?\\end\{\1\}', '', ' '.join(formula))
      if '&' in inner:  # an alignment, which stands in an environment
        formula = [r'\begin{aligned}', *formula, r'\end{aligned}']
      result += ['```math', *formula, '```']
      formula = None
    if line.startswith('.. math::'):
      rest = line.removeprefix('.. math::').strip()
      formula = [rest] if rest else []
    else:
      result.append(line)
  return '\n'.join(result).strip()


def _figures(name: str) -> Mapping[str, Any]:
  """Returns what was measured, by method."""
  path = DIRECTORY / name
  return json.loads(path.read_text('utf-8')) if path.exists() else {}


def _measured(file: str) -> dict[str, dict[str, Any]]:
  """Returns what scripts/benchmark_step.py wrote into a file, by method."""
  found = _figures(file)
  rows = {row['method'].split('(')[0]: row for row in found.get('methods', ())}
  return {
    name: {
      'time': row['ratio']['median'],
      'low': row['ratio']['min'],
      'high': row['ratio']['max'],
      'copies': (row['memory_mib'] - rows['sgd']['memory_mib'])
      * 2**20
      / (4 * found['parameters']),
      'where': f'{found["model"]}, batches of {found["batch_size"]}, '
      f'{found["device"]}, jax {found["versions"]["jax"]}',
    }
    for name, row in rows.items()
  }


def _compared(name: str) -> dict[str, str]:
  """Returns the errors that `sam-compare` found on some data, by method."""
  path = COMPARISONS / name / 'comparison.csv'
  if not path.exists():
    return {}
  with path.open(encoding='utf-8', newline='') as stream:
    return {
      row['method'].split('(')[0]: row['error, %']
      for row in csv.DictReader(stream)
    }


def _number(value: float | None, digits: str) -> str:
  """Returns a number, or nothing if there is none."""
  return '' if value is None else format(value, digits)


def cli() -> None:
  _cli.run(main, 'method_pages', flags)


if __name__ == '__main__':
  cli()

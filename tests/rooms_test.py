"""The rooms: imports point downwards, and only command lines know flags."""

import ast
import graphlib
import pathlib
import sys

import pytest

_PACKAGE = pathlib.Path(__file__).resolve().parents[1] / 'sam_jax'

# From the bottom to the top: packages, and modules that are in none.
_BASE = ('startup', 'lookup', 'registration', 'types', 'extras', 'keys')
_BASE += ('arguments', 'tree', 'convolutions', 'leaves', 'balls')
_BASE += ('perturbations', 'sam', 'methods')
_ABOVE = (
  'augmentation datasets models tasks training runs drawing analysis sweeps'
)
_COMMANDS = ('_causes', '_cli', '_config_flag', 'train', 'evaluate', 'find_rho')
_COMMANDS += ('convert_checkpoint', 'prepare_data', 'analyze', 'sweep')
_COMMANDS += ('report', 'compare_methods', 'generate', 'predict')
_ROOMS = (*_BASE, *_ABOVE.split(), 'configs', *_COMMANDS)

# What is there after an installation of sam_jax without extras.
_BASE_PACKAGES = {'jax', 'numpy', 'sam_jax', *sys.stdlib_module_names}
_FLAGS = {'absl.app', 'absl.flags', 'ml_collections.config_flags'}
# Grain's processes want flags to be parsed; nothing else is done with them.
_PARSES_FLAGS = 'datasets/streams.py'


def _imports(nodes, path):
  """Returns the dotted names that nodes of a file import."""
  names = set()
  package = ('sam_jax', *path.split('/')[:-1])
  for node in nodes:
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      above = package[: len(package) - node.level + 1] if node.level else ()
      parts = (*above, *filter(None, [node.module]))
      names |= {'.'.join((*parts, alias.name)) for alias in node.names}
  return names - {'sam_jax.__version__'}


def _files(names, files):
  """Returns the files that hold those modules that are sam_jax's."""
  found = set()
  for root, *parts in (name.split('.') for name in names):
    modules = ['/'.join(parts[:n]) for n in range(len(parts), 0, -1)]
    paths = [f'{m}{end}' for m in modules for end in ('.py', '/__init__.py')]
    if root == 'sam_jax':
      found.add(next((p for p in paths if p in files), '__init__.py'))
  return found


def _room(path):
  return path.split('/')[0].removesuffix('.py')


def _is_in(name, modules):
  return any(name == m or name.startswith(f'{m}.') for m in modules)


def _of_file(path, names, imported):
  """Yields a line for each import that a file must not have."""
  room = _room(path)
  if room not in _ROOMS:
    yield f'{path} is in no room: list it in _ROOMS'
    return
  allowed = _ROOMS[: _ROOMS.index(room) + 1]
  for other in sorted(imported):
    if _room(other) not in allowed:
      yield f'{path} imports {other}, which is not below it'
  for name in sorted(names):
    if room not in _COMMANDS and path != _PARSES_FLAGS and _is_in(name, _FLAGS):
      yield f'{path} imports {name}, which is for command lines'
    if room in _BASE and name.split('.')[0] not in _BASE_PACKAGES:
      yield f'{path} imports {name}; the base has jax and numpy alone'
    if _is_in(name, {'configs', 'tensorflow'}):
      yield f'{path} imports {name}, which may not be there'


def _violations(sources):
  """Checks {path below sam_jax: text}; returns what is wrong, in lines."""
  found, graph = [], {}
  for path, text in sources.items():
    module = ast.parse(text)
    if path == '__init__.py':  # imports all, but most only when asked for it
      imported = _files(_imports(module.body, path), sources)
      above = sorted(p for p in imported if _room(p) not in _BASE)
      found += [
        f'sam_jax imports {p} at once: the base lacks it' for p in above
      ]
    else:
      names = _imports(ast.walk(module), path)  # those in functions, too
      graph[path] = _files(names, sources)
      found += _of_file(path, names, graph[path])
  try:
    graphlib.TopologicalSorter(graph).prepare()
  except graphlib.CycleError as error:
    found.append('imports in a circle: ' + ' -> '.join(error.args[1][::-1]))
  return found


def test_every_import_is_allowed():
  sources = {
    path.relative_to(_PACKAGE).as_posix(): path.read_text(encoding='utf-8')
    for path in sorted(_PACKAGE.rglob('*.py'))
  }
  assert len(sources) > 60
  assert _violations(sources) == []


_ALLOWED = {
  '__init__.py': 'from sam_jax import sam\ndef load():\n  import sam_jax.train',
  'lookup.py': 'import difflib',
  'sam.py': 'import jax.numpy as jnp\nimport numpy as np\nfrom . import lookup',
  'models/__init__.py': 'from sam_jax.models.zoo import create',
  'models/zoo.py': 'from flax import linen\nfrom sam_jax.sam import grad',
  'models/a.py': 'from sam_jax.models import zoo',
  'datasets/streams.py': 'from absl import flags',
  'tasks/a.py': 'from sam_jax import models\nfrom ..datasets import streams',
  'configs/default.py': 'import ml_collections',
  '_cli.py': 'from sam_jax import __version__\nfrom absl import app, logging',
  'train.py': 'from sam_jax.configs import default\nfrom sam_jax import _cli',
}


@pytest.mark.parametrize(
  ('path', 'text', 'violation'),
  [
    ('sam.py', 'import sam_jax.models', 'sam.py imports models/__init__.py'),
    ('models/a.py', 'from ..tasks import a', 'models/a.py imports tasks/a.py'),
    (
      'models/a.py',
      'def f():\n  from sam_jax.tasks.a import g',
      'not below it',
    ),
    ('models/a.py', 'import sam_jax', 'models/a.py imports __init__.py'),
    ('tasks/a.py', 'from sam_jax.configs import default', 'configs/default.py'),
    ('more.py', '', 'more.py is in no room'),
    (
      'models/zoo.py',
      'from sam_jax import models',
      'zoo.py -> models/__init__',
    ),
    ('models/zoo.py', 'def f():\n  from . import a', 'zoo.py -> models/a.py'),
    ('models/a.py', 'from absl import flags', 'absl.flags, which is for comm'),
    ('sam.py', 'import optax', 'imports optax; the base has'),
    ('methods/a.py', 'from flax import linen', 'imports flax.linen; the base'),
    ('models/a.py', 'import tensorflow as tf', 'which may not be there'),
    ('__init__.py', 'from sam_jax import models', 'at once'),
  ],
)
def test_a_forbidden_import_is_found(path, text, violation):
  assert _violations(_ALLOWED) == []
  found = _violations(_ALLOWED | {path: text})
  assert any(violation in line for line in found), found

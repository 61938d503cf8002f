"""The import direction: data flows one way, imports only point downwards."""

import ast
import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_PACKAGE = _ROOT / 'sam_jax'

# From the bottom to the top: a module may import what stands in a lower layer,
# and, where it is a package, its own modules. `sam_jax/__init__.py` may import
# everything.
_LAYERS = (
  {'lookup', 'types'},
  {'datasets', 'ema', 'layout', 'tree'},
  {'augmentation', 'losses', 'models', 'precision'},
  {'perturbations', 'sam'},
  {'loops', 'methods', 'optimizers', 'parallel', 'schedules'},
  {'train_step'},
  {
    'checkpoints',
    'evaluate',
    'interrupts',
    'legacy',
    'provenance',
    'reporting',
    'workdir',
    'writers',
  },
  {'experiment', 'sweeps'},
  {'reports', 'runner', 'runs', 'smoke'},
  {'bootstrap', 'pictures', 'pretrained'},
  {'analysis', 'preparation'},
  {'train_loop'},
  {'dry_run'},
  {'train'},
)
# The primitive knows no model, no data set and no config.
_PRIMITIVE = {'perturbations', 'sam'}
_BELOW_PRIMITIVE = {'tree', 'types'}
_FLAG_MODULES = ('absl.flags', 'absl.app', 'ml_collections.config_flags')
_LATE = ('grain', 'orbax', 'tensorflow', 'tensorflow_datasets')


def _rank(module):
  """The layer of a top-level module of sam_jax."""
  ranks = [i for i, layer in enumerate(_LAYERS) if module in layer]
  assert ranks, (
    f'sam_jax.{module} is in no layer: list it in _LAYERS of '
    f'{pathlib.Path(__file__).name}, as low as its imports allow'
  )
  return ranks[0]


def _top(path):
  """`models` for sam_jax/models/registry.py, `sam` for sam_jax/sam.py."""
  return path.relative_to(_PACKAGE).with_suffix('').parts[0]


def _sources():
  return sorted(set(_PACKAGE.rglob('*.py')) - {_PACKAGE / '__init__.py'})


def _imported(source, package=()):
  """Dotted names that a source imports, those inside functions included."""
  names = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      parents = package[: len(package) - node.level + 1] if node.level else ()
      parts = (*parents, *filter(None, [node.module]))
      names |= {'.'.join((*parts, alias.name)) for alias in node.names}
  return names


def _imported_by(path):
  package = path.relative_to(_ROOT).parts[:-1]
  return _imported(path.read_text(encoding='utf-8'), package)


def _own_imports(path):
  """Top-level modules of sam_jax that a file imports."""
  parts = [name.split('.') for name in _imported_by(path)]
  own = {p[1] if len(p) > 1 else '' for p in parts if p[0] == 'sam_jax'}
  return own - {'__version__'}


def _within(name, modules):
  return any(name == m or name.startswith(f'{m}.') for m in modules)


_every_source = pytest.mark.parametrize(
  'path', _sources(), ids=lambda path: str(path.relative_to(_ROOT))
)


@_every_source
def test_imports_point_downwards(path):
  importer = _top(path)
  for imported in _own_imports(path) - {importer}:
    assert imported, f'{path.name}: import a module of sam_jax, not sam_jax'
    if {importer, imported} <= _PRIMITIVE:
      continue
    assert _rank(imported) < _rank(importer), (
      f'sam_jax.{importer} may not import sam_jax.{imported}'
    )


def test_the_layers_list_every_module_once():
  listed = [module for layer in _LAYERS for module in layer]
  assert len(listed) == len(set(listed))
  modules = {_top(path) for path in _sources()}
  assert set(listed) == modules, (
    'list a new module in _LAYERS as low as its imports allow'
  )


@pytest.mark.parametrize('module', sorted(_PRIMITIVE))
def test_the_primitive_stands_on_trees_alone(module):
  imported = _own_imports(_PACKAGE / f'{module}.py')
  assert imported <= _PRIMITIVE | _BELOW_PRIMITIVE


@_every_source
def test_neither_configs_nor_tensorflow_are_imported(path):
  imported = _imported_by(path)
  assert not [n for n in imported if _within(n, ('configs', 'tensorflow'))]


@_every_source
def test_only_the_command_line_knows_flags(path):
  flags = [n for n in _imported_by(path) if _within(n, _FLAG_MODULES)]
  # Grain's processes want flags to be parsed; nothing else is done with them.
  assert not flags or _top(path) == 'train' or path.name == 'streams.py'


@pytest.mark.parametrize(
  ('source', 'package', 'names'),
  [
    ('import sam_jax.train', (), {'sam_jax.train'}),
    ('from sam_jax import sam as s', (), {'sam_jax.sam'}),
    ('def f():\n  from absl import flags', (), {'absl.flags'}),
    ('from . import tree', ('sam_jax',), {'sam_jax.tree'}),
    ('from ..losses import x', ('sam_jax', 'models'), {'sam_jax.losses.x'}),
  ],
)
def test_every_form_of_import_is_seen(source, package, names):
  assert _imported(source, package) == names


def test_importing_sam_jax_leaves_the_training_stack_for_later():
  code = f'import sys, sam_jax; print([m for m in {_LATE} if m in sys.modules])'
  output = subprocess.run(
    [sys.executable, '-c', code],
    cwd=_ROOT,
    check=True,
    capture_output=True,
    text=True,
  ).stdout
  assert output.strip() == '[]'

"""The code on the pages runs, and its commands have the flags they are given.

The convention is that of tests/docs/pages.py.
"""

import importlib
import sys

import jax
import pytest

from sam_jax import _config_flag
from sam_jax.datasets import registry as datasets
from sam_jax.methods import registry as methods
from sam_jax.models import registry as models
from sam_jax.runs.writers import base as writers
from sam_jax.tasks import registry as tasks
from tests import tiny
from tests.docs import pages

# Where a page may register something.
_REGISTRIES = (
  (datasets, '_LOADERS'),
  (datasets, '_KINDS'),
  (methods, '_METHODS'),
  (models, '_REGISTRY'),
  (tasks, '_TASKS'),
  (writers, '_WRITERS'),
)


def _are_run(name):
  """Whether there is something to run on a page."""
  return any(
    block.language == 'python' or block.marker == 'run'
    for block in pages.blocks(name)
    if not block.marker.startswith('not')
  )


def _has_sh(name):
  """Whether there are commands on a page."""
  return any(block.language == 'sh' for block in pages.blocks(name))


def _parse(module, arguments):
  """Parses a command line as the command does, up to its config."""
  command = importlib.import_module(module)
  if not hasattr(command, 'flags'):
    return
  if '--help' in arguments or '--version' in arguments:
    return
  command = importlib.reload(command)  # flags keep the values of another test
  argv = [module, *arguments]
  for take in command.flags.filters:
    argv = take(argv)
  command.flags.values(argv)
  for value in vars(command).values():
    if isinstance(value, _config_flag.ConfigFlag) and value.is_given:
      value.load()


@pytest.fixture
def place(tmp_path, monkeypatch):
  """A directory to work in, whose modules can be imported.

  What they register is forgotten: other tests list what there is.
  """
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)
  for module, name in _REGISTRIES:
    monkeypatch.setattr(module, name, dict(getattr(module, name)))
  yield tmp_path
  for name, module in list(sys.modules.items()):
    if (getattr(module, '__file__', None) or '').startswith(str(tmp_path)):
      del sys.modules[name]


@pytest.mark.parametrize('name', [n for n in pages.names() if _has_sh(n)])
def test_every_command_has_the_flags_and_fields_it_is_given(name, place):
  del place
  blocks = pages.blocks(name)
  _write_files(blocks)
  wrong = []
  for block in blocks:
    if block.language != 'sh':
      continue
    for module, arguments in pages.commands(block.code):
      try:
        _parse(module, arguments)
      except (Exception, SystemExit) as error:
        if block.marker.startswith('not') and 'does not exist' in str(error):
          continue  # a config that only the run before it leaves
        command = ' '.join([module, *arguments])
        wrong.append(f'{name}:{block.line}: {command}\n  {error}')
  assert not wrong, '\n'.join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize('name', [n for n in pages.names() if _are_run(n)])
def test_the_code_of_each_page_runs(name, place, command, monkeypatch):
  del place
  namespace = {'__name__': '__main__'}
  # JAX's own setting, unlike that of the other tests.
  with jax.numpy_rank_promotion('allow'):
    for block in pages.blocks(name):
      if block.title:
        _write_files([block])
      elif block.marker.startswith('not'):
        continue
      elif block.language == 'python':
        source = '\n' * (block.line - 1) + block.code
        exec(compile(source, name, 'exec'), namespace)
      elif block.marker == 'run':
        with monkeypatch.context() as patch:
          tiny.use_devices(patch, 1)  # as most readers have
          _run(command, block, name)


def _write_files(blocks):
  """Writes the blocks that are files into the working directory."""
  for block in blocks:
    if block.title:
      path = pages.pathlib.Path(block.title)
      assert not path.is_absolute() and '..' not in path.parts
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(block.code, encoding='utf-8')


def _run(command, block, name):
  """Runs the commands of a block; all of them are ours."""
  found = pages.commands(block.code)
  assert found, f'{name}:{block.line}: no command of ours to run'
  for module, arguments in found:
    done = command(module, *arguments)
    assert done.status == 0, f'{name}:{block.line}: {module}\n{done.err}'

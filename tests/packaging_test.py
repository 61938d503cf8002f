"""What is installed, and that versions and ranges agree with each other."""

import pathlib
import re
import runpy
import shutil
import subprocess
import sys

import pytest
import setuptools
from packaging import requirements, utils

import sam_jax

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_PYTHONS = ('3.11', '3.12', '3.13', '3.14')


def _read(name):
  return (_ROOT / name).read_text(encoding='utf-8')


@pytest.fixture
def setup_arguments(monkeypatch):
  """The arguments with which setup.py calls setuptools."""
  arguments = {}
  monkeypatch.setattr(setuptools, 'setup', arguments.update)
  runpy.run_path(str(_ROOT / 'setup.py'))
  return arguments


def _pins(python):
  """Name -> version for every pin that applies to one Python version."""
  lines = _read('requirements.txt').splitlines()
  parsed = [requirements.Requirement(x) for x in lines if x and x[0] != '#']
  environment = {'python_version': python}
  pins = {}
  for pin in parsed:
    if pin.marker is None or pin.marker.evaluate(environment):
      name = utils.canonicalize_name(pin.name)
      assert name not in pins, f'{name} is pinned twice for Python {python}'
      (specifier,) = pin.specifier
      assert specifier.operator == '=='
      pins[name] = specifier.version
  return pins


def _ranges(arguments):
  """Name -> requirement for what the package and its developers need."""
  listed = arguments['install_requires'] + arguments['extras_require']['dev']
  parsed = [requirements.Requirement(x) for x in listed]
  return {utils.canonicalize_name(r.name): r for r in parsed}


@pytest.mark.parametrize('python', _PYTHONS)
def test_every_requirement_is_pinned_within_its_range(setup_arguments, python):
  ranges, pins = _ranges(setup_arguments), _pins(python)
  assert set(pins) - {'jaxlib'} == set(ranges)
  for name, requirement in ranges.items():
    assert requirement.specifier.contains(pins[name]), name
  assert pins['jaxlib'] == pins['jax']


def test_the_accelerator_extras_have_the_range_of_jax(setup_arguments):
  jax_range = _ranges(setup_arguments)['jax'].specifier
  for extra in ('cuda', 'tpu'):
    (line,) = setup_arguments['extras_require'][extra]
    assert requirements.Requirement(line).name == 'jax'
    assert requirements.Requirement(line).specifier == jax_range


def test_the_version_is_the_same_everywhere(setup_arguments):
  version = setup_arguments['version']
  newest = re.search(r'^## (\S+)', _read('CHANGELOG.md'), re.MULTILINE)
  cited = re.search(r'^version: (\S+)', _read('CITATION.cff'), re.MULTILINE)
  assert newest.group(1) == version
  assert cited.group(1) == version


def test_the_version_is_read_without_importing(setup_arguments):
  assert setup_arguments['version'] == sam_jax.__version__


def _copy_for_building(directory):
  """Copies what a build reads: building in place would leave files there."""
  for name in ('sam_jax', 'configs', 'tests'):
    shutil.copytree(_ROOT / name, directory / name)
  for name in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE'):
    shutil.copy(_ROOT / name, directory)


@pytest.mark.slow
def test_pip_installs_the_typed_package_and_nothing_else(tmp_path):
  source, target = tmp_path / 'source', tmp_path / 'target'
  source.mkdir()
  _copy_for_building(source)
  pip = [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps']
  pip += ['--no-build-isolation', '--no-index', '--target', str(target)]
  subprocess.run([*pip, str(source)], check=True)
  modules = {p.relative_to(_ROOT) for p in (_ROOT / 'sam_jax').rglob('*.py')}
  assert {p.relative_to(target) for p in target.rglob('*.py')} == modules
  assert (target / 'sam_jax' / 'py.typed').exists()
  assert {p.name for p in target.iterdir()} == {
    'sam_jax',
    f'sam_jax-{sam_jax.__version__}.dist-info',
  }

"""Versions, ranges and extras agree with each other and with the code."""

import pathlib
import re
import runpy

import pytest
import setuptools
from packaging import requirements, utils

import sam_jax
from sam_jax import extras

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


def test_every_extra_that_an_error_names_installs_the_package(setup_arguments):
  # What is imported under another name than it is installed under.
  installed_as = {
    'PIL': 'pillow',
    'absl': 'absl-py',
    'cv2': 'opencv-python-headless',
    'ml_collections': 'ml-collections',
    'mlflow': 'mlflow-skinny',
    'orbax': 'orbax-checkpoint',
    'sklearn': 'scikit-learn',
    'tensorflow_datasets': 'tensorflow-datasets',
  }
  for module, extra in extras._EXTRAS.items():
    listed = map(
      requirements.Requirement, setup_arguments['extras_require'][extra]
    )
    assert installed_as.get(module, module) in {r.name for r in listed}


def test_whoever_trains_has_what_sweeps_and_reports_draw_with(setup_arguments):
  extra = setup_arguments['extras_require']
  assert {'matplotlib>=3.9', 'scipy>=1.14'} <= set(extra['train'])
  assert set(extra['dev']) > {
    *extra['train'],
    *extra['analysis'],
    *extra['ray'],
  }


def test_pre_commit_runs_the_checks_of_ci():
  hooks = re.findall(
    r'entry: (ruff \w+|mypy)', _read('.pre-commit-config.yaml')
  )
  stages = re.findall(
    r'^python -m (ruff \w+|mypy)', _read('scripts/test.sh'), re.M
  )
  assert hooks == stages


def test_the_base_is_jax_and_numpy(setup_arguments):
  listed = map(requirements.Requirement, setup_arguments['install_requires'])
  assert {r.name for r in listed} == {'jax', 'numpy'}

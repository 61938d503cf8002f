"""The wheel, installed in clean environments and used outside the checkout.

Nothing is downloaded. One environment has jax and numpy alone: links to their
packages. The other has all that the tests have.
"""

import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile

import PIL.Image
import pytest

import sam_jax

pytestmark = pytest.mark.slow

_ROOT = pathlib.Path(__file__).resolve().parents[1]
# What `pip install jax numpy` installs.
_BASE = ('jax', 'jaxlib', 'ml_dtypes', 'numpy', 'opt_einsum', 'scipy')


def _run(*command, cwd, **variables):
  """Runs a command where nothing leads to the checkout."""
  environment = {
    name: value
    for name, value in os.environ.items()
    if name not in ('PYTHONPATH', 'VIRTUAL_ENV', 'XLA_FLAGS')
  }
  return subprocess.run(
    [str(part) for part in command],
    cwd=cwd,
    env=environment | variables,
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.fixture(scope='module')
def distributions(tmp_path_factory):
  """The wheel and the sdist that it is built from."""
  source = tmp_path_factory.mktemp('source')
  shutil.copytree(
    _ROOT / 'sam_jax',
    source / 'sam_jax',
    ignore=shutil.ignore_patterns('__pycache__'),
  )
  for name in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE'):
    shutil.copy(_ROOT / name, source)
  done = _run(sys.executable, '-m', 'build', '--no-isolation', cwd=source)
  assert done.returncode == 0, done.stdout + done.stderr
  (wheel,) = (source / 'dist').glob('*.whl')
  (sdist,) = (source / 'dist').glob('*.tar.gz')
  return wheel, sdist


def _environment(directory, wheel, packages):
  """Makes an environment of a wheel and of packages that are there already.

  Args:
    directory: of the environment.
    wheel: to install.
    packages: to link; None makes all of this environment importable.

  Returns:
    The directory of its commands.
  """
  venv.create(directory, symlinks=True)
  bin_directory = directory / 'bin'
  done = _run(
    *(sys.executable, '-m', 'pip', '--python', bin_directory / 'python'),
    *('install', '--quiet', '--no-deps', '--no-index', wheel),
    cwd=directory,
  )
  assert done.returncode == 0, done.stderr
  (site,) = directory.glob('lib/python*/site-packages')
  if packages is None:
    paths = {sysconfig.get_path('purelib'), sysconfig.get_path('platlib')}
    (site / 'packages.pth').write_text('\n'.join(sorted(paths)))
    return bin_directory
  for name in packages:
    (package,) = importlib.util.find_spec(name).submodule_search_locations
    installed = pathlib.Path(package).parent
    for pattern in (name, f'{name}.libs', f'{name}-*.dist-info'):
      for part in installed.glob(pattern):
        (site / part.name).symlink_to(part)
  return bin_directory


@pytest.fixture(scope='module')
def base(distributions, tmp_path_factory):
  """Commands of an environment with jax and numpy alone."""
  return _environment(tmp_path_factory.mktemp('base'), distributions[0], _BASE)


@pytest.fixture(scope='module')
def full(distributions, tmp_path_factory):
  """Commands of an environment with everything."""
  return _environment(tmp_path_factory.mktemp('full'), distributions[0], None)


def test_the_distributions_are_whole_and_pass_twine(distributions):
  wheel, sdist = distributions
  done = _run(
    sys.executable, '-m', 'twine', 'check', '--strict', wheel, sdist, cwd='/'
  )
  assert done.returncode == 0, done.stdout
  modules = {
    str(path.relative_to(_ROOT)) for path in (_ROOT / 'sam_jax').rglob('*.py')
  }
  with zipfile.ZipFile(wheel) as archive:
    names = set(archive.namelist())
  assert {name for name in names if name.endswith('.py')} == modules
  assert 'sam_jax/py.typed' in names
  runs = {
    str(path.relative_to(_ROOT)) for path in (_ROOT / 'sam_jax').rglob('*.zip')
  }
  assert len(runs) == 2 and runs <= names
  info = f'sam_jax-{sam_jax.__version__}.dist-info/'
  assert all(name.startswith(('sam_jax/', info)) for name in names)
  with tarfile.open(sdist) as archive:
    packed = {name.partition('/')[2] for name in archive.getnames()}
  assert modules | runs | {'sam_jax/py.typed', 'LICENSE'} <= packed


_OWN_LOOP = """
import jax, jax.numpy as jnp, sam_jax

def loss(params, x):
  return jnp.mean((params['w'] * x - 1.0) ** 2)

params, x = {'w': jnp.array(3.0)}, jnp.arange(1.0, 5.0)
plain, _ = jax.value_and_grad(loss)(params, x)
value, grads = sam_jax.value_and_grad(loss, sam_jax.asam(0.05))(params, x)
assert value == plain
method = sam_jax.methods.looksam(rho=0.05, every=2)
state = method.init(params)
grad_fn = jax.jit(method.value_and_grad(loss))
for _ in range(20):
  value, grads, state = grad_fn(state, params, x)
  params = jax.tree.map(lambda w, g: w - 0.05 * g, params, grads)
assert value < plain / 10, value
"""


def test_the_base_has_the_gradient_and_the_methods(base, tmp_path):
  done = _run(base / 'python', '-W', 'error', '-c', _OWN_LOOP, cwd=tmp_path)
  assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
  ('code', 'package', 'extra'),
  [
    ('import sam_jax; sam_jax.load', 'ml_collections', 'train'),
    ('import sam_jax.models', 'flax', 'train'),
    ('import sam_jax; sam_jax.analysis', 'matfree', 'analysis'),
  ],
)
def test_what_the_base_lacks_is_said_with_its_extra(
  base, tmp_path, code, package, extra
):
  done = _run(base / 'python', '-c', code, cwd=tmp_path)
  assert done.returncode == 1
  assert done.stderr.splitlines()[-1] == (
    f'ModuleNotFoundError: {package} is not installed; install it with: '
    f"pip install 'sam_jax[{extra}]'"
  )


def test_a_command_without_its_extra_is_one_line(base, tmp_path):
  for command in (
    [base / 'sam-train', '--help'],
    [base / 'python', '-m', 'sam_jax.analyze', 'hessian'],
  ):
    done = _run(*command, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
      'sam_jax: absl is not installed; install it with: '
      "pip install 'sam_jax[train]'\n"
    )


_COMMANDS = """
import importlib.metadata

(found,) = importlib.metadata.distributions(name='sam_jax')
commands = found.entry_points.select(group='console_scripts')
assert {'sam-train', 'sam-sweep', 'sam-compare'} <= set(commands.names)
for command in commands:
  command.load()
"""


def test_every_command_of_the_wheel_can_be_imported(full, tmp_path):
  done = _run(full / 'python', '-c', _COMMANDS, cwd=tmp_path)
  assert done.returncode == 0, done.stderr


# A sweep, and a config of the user's own.
_CONFIG = """
from sam_jax.configs import default

def get_config():
  config = default.get_config()
  config.model.features = (4,)
  config.model.hidden = 8
  config.data.train_size = 100
  config.num_epochs = 1
  config.log.tensorboard = False
  return config
"""
_SWEEP = """
from sam_jax.sweeps import cells

def get_sweep():
  config = 'CONFIG'
  return cells.Sweep(
    cells.product([{'config': config}], {'method.name': ['sgd', 'sam']})
  )
"""


def test_the_commands_work_from_any_directory(full, tmp_path):
  def succeed(command, *arguments):
    done = _run(full / command, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

  assert succeed('sam-train', '--version') == f'sam_jax {sam_jax.__version__}\n'
  train = (
    *('sam-train', '--config=digits', '--workdir=run'),
    *('--config.schedule.name=constant', '--config.model.features=(4,)'),
    *('--config.model.hidden=8', '--config.log.tensorboard=False'),
  )
  assert 'finished: ' in succeed(*train, '--config.num_epochs=1')
  resumed = succeed(*train, '--config.num_epochs=2')
  assert '80 steps, of which 40 were made before' in resumed
  summary = json.loads(succeed('sam-evaluate', '--workdir=run'))
  assert summary['examples'] == 797
  image = tmp_path / 'black.png'
  PIL.Image.new('L', (8, 8)).save(image)
  # The names of shipped runs stand for runs, and 'run' is one, too.
  for name in ('digits_cnn_sam', 'run'):
    assert succeed('sam-predict', name, image).startswith(f'{image}: ')
  (tmp_path / 'mine.py').write_text(_CONFIG)
  sweep = tmp_path / 'sweep.py'
  sweep.write_text(_SWEEP.replace('CONFIG', str(tmp_path / 'mine.py')))
  succeed('sam-sweep', '--sweep=sweep.py', '--workdir=runs', '--workers=2')
  report = succeed('sam-report', 'runs')
  assert 'sgd' in report and 'sam' in report
  out = succeed(
    *('sam-analyze', 'hessian', '--workdir=run', '--k=1', '--trace_probes=2'),
    *('--probes=1', '--lanczos_steps=3', '--examples=50'),
  )
  assert pathlib.Path(out.splitlines()[-1]).exists()

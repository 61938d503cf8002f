"""scripts/analyze.py, as a user runs it."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny
from matplotlib import pyplot as plt

from sam_jax import analysis
from sam_jax.analysis import pictures

SCRIPT = tiny.ROOT / 'scripts' / 'analyze.py'
FEW = ('--trace_probes=3', '--probes=1', '--lanczos_steps=5', '--k=5')


@pytest.fixture(scope='module')
def workdirs(tmp_path_factory):
  """SGD and SAM, two epochs of each."""
  root = tmp_path_factory.mktemp('runs')
  for method in ('sgd', 'sam'):
    tiny.train(root / method, method__name=method)
  return root / 'sgd', root / 'sam'


def _command(*arguments):
  return [sys.executable, str(SCRIPT), *map(str, arguments)]


def _analyze(*arguments):
  return subprocess.run(
    _command(*arguments),
    env=tiny.environment(1),
    capture_output=True,
    text=True,
    timeout=240,
    check=False,
  )


def _of(workdirs):
  return [f'--workdir={workdir}' for workdir in workdirs]


def _json(workdir, command):
  (path,) = (workdir / 'analysis').glob(f'{command}-*.json')
  return json.loads(path.read_text())


def _is_picture(line):
  path = pathlib.Path(line)
  assert plt.imread(path).ndim == 3
  return path


@pytest.mark.slow
def test_hessians_of_two_runs_share_a_picture(workdirs):
  done = _analyze('hessian', *_of(workdirs), *FEW)
  assert done.returncode == 0, done.stderr
  *_, header, first, second, picture = done.stdout.splitlines()
  assert header.split()[:2] == ['lambda_max', 'lambda_max/lambda_5']
  for workdir, line in zip(workdirs, (first, second), strict=True):
    content = _json(workdir, 'hessian')
    assert content['checkpoint'] == 10
    assert content['options']['split'] == 'train'
    assert {'jax', 'matfree', 'scipy'} <= content['versions'].keys()
    model = analysis.load(workdir)
    expected = analysis.top_eigenpairs(model.objective(), model.params, 5)
    values = content['result']['eigenvalues']
    np.testing.assert_allclose(values, expected.values, rtol=1e-3)
    assert line.split()[0] == workdir.name
    assert float(line.split()[1]) == pytest.approx(values[0], rel=1e-3)
  assert _is_picture(picture).parent == workdirs[0] / 'analysis'
  before = tiny.tree(workdirs[0])
  again = _analyze('hessian', *_of(workdirs), *FEW)
  assert again.stdout.count('measured already') == 2
  assert again.stdout.splitlines()[-4:-1] == [header, first, second]
  assert tiny.tree(workdirs[0]).keys() == before.keys()


@pytest.mark.slow
def test_sharpness_by_one_step_is_what_the_library_finds(workdirs):
  done = _analyze(
    'sharpness',
    f'--workdir={workdirs[1]}',
    *('--m=20', '--rho=0.2', '--samples=1', '--ascent_steps=3'),
    *('--adaptive', '--eta=0.1', '--groups=3', '--seed=1'),
  )
  assert done.returncode == 0, done.stderr
  result = _json(workdirs[1], 'sharpness')['result']
  model = analysis.load(workdirs[1])
  expected = analysis.worst_case(
    model.objective(),
    model.params,
    model.groups(20, seed=1, max_groups=3),
    analysis.Ball(0.2, 2.0, 0.1),
  )
  measures = result['measures']
  found = measures['one_ascent_step']
  np.testing.assert_allclose(found['groups'], expected.groups, atol=1e-5)
  assert measures['projected_ascent']['mean'] >= found['mean'] - 1e-6
  _is_picture(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
  ('options', 'shape'),
  [
    (('--dimensions=2',), (3, 3)),
    pytest.param(
      ('--dimensions=1', '--along=eigenvectors', '--extent=0.1'),
      (3,),
      marks=pytest.mark.slow,
    ),
  ],
)
def test_landscapes_have_the_loss_of_the_run_in_the_middle(
  workdirs, tmp_path, options, shape
):
  picture = tmp_path / 'a.png'
  done = _analyze(
    *('landscape', '--points=3', *_of(workdirs)),
    *(*options, '--split=test', '--examples=50', f'--output={picture}'),
  )
  assert done.returncode == 0, done.stderr
  _is_picture(picture)
  model = analysis.load(workdirs[0], split='test', num_examples=50)
  (path,) = (
    pathlib.Path(line)
    for line in done.stdout.splitlines()
    if line.startswith(str(workdirs[0])) and line.endswith('.json')
  )
  losses = np.array(json.loads(path.read_text())['result']['loss'])
  assert losses.shape == shape
  expected = model.objective().value(model.params)
  assert losses[(1,) * len(shape)] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_interpolation_begins_and_ends_with_the_runs(workdirs):
  done = _analyze(
    'interpolate', *_of(workdirs), '--points=4', '--margin=1', '--seed=2'
  )
  assert done.returncode == 0, done.stderr
  result = _json(workdirs[0], 'interpolate')['result']
  np.testing.assert_allclose(result['coordinates'], [-1, 0, 1, 2])
  first, second = (analysis.load(workdir) for workdir in workdirs)
  objective = first.objective(first.loss)
  for place, model in ((1, first), (2, second)):
    expected = objective.value(model.variables)
    assert result['loss'][place] == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_a_killed_analysis_goes_on(workdirs, tmp_path):
  arguments = (
    *('landscape', '--points=101', '--dimensions=1', '--seed=5'),
    *(f'--workdir={workdirs[1]}', f'--output={tmp_path}/a.png'),
  )
  process = subprocess.Popen(
    _command(*arguments),
    env=tiny.environment(1),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  pieces = []
  while process.poll() is None and len(pieces) < 3:
    time.sleep(0.005)
    pieces = list((workdirs[1] / 'analysis').glob('landscape-*.pieces/*.npz'))
  os.kill(process.pid, signal.SIGKILL)
  process.wait()
  (directory,) = (workdirs[1] / 'analysis').glob('landscape-*.pieces')
  kept = {p: p.stat().st_mtime_ns for p in directory.glob('*.npz')}
  assert 3 <= len(kept) < 101
  assert not directory.with_suffix('.json').exists()
  # What is kept is not computed again: put a mark there.
  marked = directory / 'row-0.npz'
  np.savez(marked, loss=np.array([123.0]))
  done = _analyze(*arguments)
  assert done.returncode == 0, done.stderr
  content = json.loads(directory.with_suffix('.json').read_text())
  losses = content['result']['loss']
  assert losses[0] == 123 and len(losses) == 101
  model = analysis.load(workdirs[1])
  direction = analysis.random_direction(model.params, 10)
  expected = analysis.scan(
    model.objective(), model.params, [direction], np.linspace(-1, 1, 101)[-2:]
  )
  np.testing.assert_allclose(losses[-2:], expected, rtol=1e-5)
  assert not directory.exists()


@pytest.fixture(scope='module')
def broken(tmp_path_factory):
  """Directories of which nothing can be measured, or less."""
  root = tmp_path_factory.mktemp('broken')
  (root / 'empty').mkdir()
  tiny.train(root / 'other', **{'model.hidden': 5})
  tiny.train(root / 'small', **{'data.train_size': 48})
  tiny.train(root / 'fresh', num_epochs=1)
  for path in (root / 'fresh' / 'checkpoints').iterdir():
    path.rename(root / f'moved-{path.name}')
  return root


def _slow(arguments, answer):
  return pytest.param(arguments, answer, marks=pytest.mark.slow)


@pytest.mark.parametrize(
  ('arguments', 'answer'),
  [
    ((), 'give one of the commands hessian, sharpness'),
    (('hesian', '--workdir={run}'), 'got hesian'),
    _slow(('hessian',), 'give --workdir once or several times; got 0'),
    _slow(('hessian', '--workdir={broken}/empty'), 'no run directory'),
    _slow(('hessian', '--workdir={broken}/fresh'), 'holds no checkpoint yet'),
    _slow(('hessian', '--workdir={run}', '--checkpoint=7'), 'no checkpoint 7'),
    (('hessian', '--workdir={run}', '--k=100000'), 'k is 100000; it must be'),
    _slow(
      ('sharpness', '--workdir={run}', '--m=500'), 'm is 500; it must be in'
    ),
    # That of the second, before anything of the first is written.
    _slow(
      ('sharpness', '--workdir={run}', '--workdir={broken}/small', '--m=64'),
      'm is 64; it must be in [1, 48]',
    ),
    _slow(('sharpness', '--workdir={run}', '--rho=-1'), 'rho is -1'),
    _slow(
      ('landscape', '--workdir={run}', '--output=a.pdf'), 'must end in .png'
    ),
    _slow(('interpolate', '--workdir={run}'), 'give --workdir twice; got 1'),
    _slow(
      ('interpolate', '--workdir={run}', '--workdir={broken}/other'),
      'one and the same model',
    ),
  ],
)
def test_bad_input_is_one_line(workdirs, request, arguments, answer):
  places = {'run': workdirs[0]}
  if '{broken}' in ''.join(arguments):
    places['broken'] = request.getfixturevalue('broken')
  before = tiny.tree(workdirs[0]).keys()
  done = _analyze(*(a.format(**places) for a in arguments))
  assert done.returncode == 2
  assert done.stderr.startswith('analyze: ') and answer in done.stderr
  assert done.stderr.count('\n') == 1
  assert tiny.tree(workdirs[0]).keys() == before


_DIVERGED = """
import runpy, sys
import jax, numpy as np
from sam_jax import runs

load = runs.load_with_info

def load_nan(*args):
  run, info = load(*args)
  nan = jax.tree.map(lambda x: np.full_like(x, np.nan), run.variables)
  return run._replace(variables=nan), info

runs.load_with_info = load_nan
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def test_weights_that_are_nan_are_one_line(workdirs):
  # Training stops before it saves such a checkpoint; others may not.
  before = tiny.tree(workdirs[0]).keys()
  done = subprocess.run(
    [
      *(
        sys.executable,
        '-c',
        f'import sys; sys.argv = sys.argv[1:]{_DIVERGED}',
      ),
      *_command('hessian', f'--workdir={workdirs[0]}')[1:],
    ],
    cwd=tiny.ROOT,
    env=tiny.environment(1),
    capture_output=True,
    text=True,
    timeout=240,
    check=False,
  )
  assert done.returncode == 2
  assert 'the parameters hold NaN or infinity' in done.stderr
  assert done.stderr.count('\n') == 1
  assert tiny.tree(workdirs[0]).keys() == before


def test_a_flat_loss_can_be_drawn(tmp_path):
  flat = {'coordinates': [-1, 1], 'loss': [[0.5, 0.5], [0.5, 0.5]]}
  pictures.planes(tmp_path / 'a.png', {'a': flat, 'b': flat}, 'direction')
  point = {'nodes': [[0.0]], 'weights': [[1.0]], 'eigenvalues': [0.0]}
  pictures.spectra(tmp_path / 'b.png', {'a': point})
  assert len(list(tmp_path.iterdir())) == 2


def test_many_planes_take_several_rows(tmp_path):
  flat = {'coordinates': [-1, 1], 'loss': [[0.5, 1.5], [0.5, 2.5]]}
  shapes = []
  for count in (4, 5):
    path = tmp_path / f'{count}.png'
    runs = {str(i): flat for i in range(count)}
    pictures.planes(path, runs, 'direction')
    shapes.append(plt.imread(path).shape)
  assert shapes[1][1] == shapes[0][1]
  assert shapes[1][0] == 2 * shapes[0][0]


def test_what_is_not_a_number_is_left_white(tmp_path):
  """None in the results' JSON, as a loss that overflows may be."""
  along = np.linspace(-1, 1, 5)
  losses = np.add.outer(along**2, along**2) + 1
  holed = losses.tolist()
  holed[0][0] = holed[0][1] = holed[1][0] = holed[1][1] = None
  whites = []
  none = [[None] * 5] * 5
  for name, loss in (('whole', losses), ('holed', holed), ('none', none)):
    path = tmp_path / f'{name}.png'
    run = {'coordinates': along, 'loss': loss}
    pictures.planes(path, {'a': run, 'b': run}, 'direction')
    pixels = plt.imread(path)[..., :3]
    whites.append(np.mean(np.all(pixels > 0.99, axis=-1)))
  assert whites[0] + 0.01 < whites[1] < whites[2]

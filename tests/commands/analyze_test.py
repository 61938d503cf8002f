"""The analysis command: tables, files, pictures, and what it refuses."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
from matplotlib import pyplot as plt

from sam_jax import analysis
from sam_jax.analysis import pass_bar
from sam_jax.runs import loading
from tests import tiny

FEW = ('--trace_probes=3', '--probes=1', '--lanczos_steps=5', '--k=5')


# Little to compile.
PLAIN = {
  'augmentation.name': 'none',
  'augmentation.cutout_length': 0,
  'model.dropout_rate': 0.0,
}


@pytest.fixture(scope='module')
def workdirs(tmp_path_factory):
  """SGD and SAM, two epochs of each."""
  root = tmp_path_factory.mktemp('runs')
  for method in ('sgd', 'sam'):
    tiny.train(root / method, method__name=method, **PLAIN)
  return root / 'sgd', root / 'sam'


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
def test_hessians_of_two_runs_share_a_picture(command, workdirs):
  few = (*FEW, '--k_smallest=1')
  done = command('analyze', 'hessian', *_of(workdirs), *few)
  assert done.status == 0, done.err
  *_, header, first, second, picture = done.out.splitlines()
  columns = ['lambda_max', 'lambda_max/lambda_5', 'lambda_min']
  assert header.split()[:3] == columns
  for workdir, line in zip(workdirs, (first, second), strict=True):
    content = _json(workdir, 'hessian')
    assert content['checkpoint'] == 10
    assert content['options']['split'] == 'train'
    assert {'jax', 'matfree', 'scipy'} <= content['versions'].keys()
    values = content['result']['eigenvalues']
    assert line.split()[0] == workdir.name
    assert float(line.split()[1]) == pytest.approx(values[0], rel=1e-3)
  model = analysis.load(workdirs[1])
  expected = analysis.top_eigenpairs(model.objective(), model.params, 5)
  np.testing.assert_allclose(values, expected.values, rtol=1e-3)
  (smallest,) = content['result']['smallest_eigenvalues']
  expected = analysis.bottom_eigenpairs(model.objective(), model.params, 1)
  assert smallest == pytest.approx(expected.values[0], rel=1e-3)
  assert float(line.split()[3]) == pytest.approx(smallest, rel=1e-3)
  assert _is_picture(picture).parent == workdirs[0] / 'analysis'
  before = tiny.tree(workdirs[0])
  again = command('analyze', 'hessian', *_of(workdirs), *few)
  assert again.out.count('measured already') == 2
  assert again.out.splitlines()[-4:-1] == [header, first, second]
  assert tiny.tree(workdirs[0]).keys() == before.keys()


@pytest.mark.slow
def test_sharpness_by_one_step_is_what_the_library_finds(command, workdirs):
  done = command(
    *('analyze', 'sharpness', f'--workdir={workdirs[1]}'),
    *('--m=20', '--rho=0.2', '--samples=1', '--ascent_steps=3'),
    *('--adaptive', '--eta=0.1', '--groups=2', '--seed=1'),
  )
  assert done.status == 0, done.err
  result = _json(workdirs[1], 'sharpness')['result']
  model = analysis.load(workdirs[1])
  expected = analysis.worst_case(
    model.objective(),
    model.params,
    model.groups(20, seed=1, max_groups=2),
    analysis.Ball(0.2, 2.0, 0.1),
  )
  measures = result['measures']
  found = measures['one_ascent_step']
  np.testing.assert_allclose(found['groups'], expected.groups, atol=1e-5)
  assert measures['projected_ascent']['mean'] >= found['mean'] - 1e-6
  _is_picture(done.out.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
  ('options', 'shape'),
  [
    (('--dimensions=2',), (3, 3)),
    (('--dimensions=1', '--along=eigenvectors', '--extent=0.1'), (3,)),
  ],
)
def test_landscapes_have_the_loss_of_the_run_in_the_middle(
  command, workdirs, tmp_path, options, shape
):
  picture = tmp_path / 'a.png'
  done = command(
    *('analyze', 'landscape', '--points=3', f'--workdir={workdirs[0]}'),
    *(*options, '--split=test', '--examples=50', f'--output={picture}'),
  )
  assert done.status == 0, done.err
  _is_picture(picture)
  # A slow machine shows how far it is first.
  (path,) = [x for x in done.out.splitlines() if x.endswith('.json')]
  losses = json.loads(pathlib.Path(path).read_text())['result']['loss']
  losses = np.array(losses)
  assert losses.shape == shape
  model = analysis.load(workdirs[0], split='test', num_examples=50)
  expected = model.objective().value(model.params)
  assert losses[(1,) * len(shape)] == pytest.approx(expected, rel=1e-5)


def test_interpolation_begins_and_ends_with_the_runs(command, workdirs):
  done = command(
    *('analyze', 'interpolate', *_of(workdirs)), '--points=4', '--margin=1'
  )
  assert done.status == 0, done.err
  result = _json(workdirs[0], 'interpolate')['result']
  np.testing.assert_allclose(result['coordinates'], [-1, 0, 1, 2])
  first, second = (analysis.load(workdir) for workdir in workdirs)
  score = first.task.score.metric
  for key, metric in (('loss', 'loss'), ('score', score)):
    objective = first.objective(first.metric(metric))
    for place, model in ((1, first), (2, second)):
      expected = objective.value(model.variables)
      assert result[key][place] == pytest.approx(expected, rel=1e-4)


def test_an_interrupted_analysis_is_resumed(
  command, monkeypatch, workdirs, tmp_path
):
  arguments = (
    *('analyze', 'landscape', '--points=5', '--dimensions=1', '--seed=5'),
    *(f'--workdir={workdirs[1]}', f'--output={tmp_path}/a.png'),
  )
  passes = []

  def interrupt(self, examples):
    passes.append(examples)
    if len(passes) == 4:
      raise MemoryError

  with monkeypatch.context() as patched:
    patched.setattr(pass_bar.PassBar, 'passed', interrupt)
    done = command(*arguments)
  assert done.status == 1
  assert done.err.startswith('analyze: out of memory (')
  (directory,) = (workdirs[1] / 'analysis').glob('landscape-*.pieces')
  assert len(list(directory.iterdir())) == 3
  assert not directory.with_suffix('.json').exists()
  # What is kept is not computed again: put a mark there.
  np.savez(directory / 'row-0.npz', loss=np.array([123.0]))
  done = command(*arguments)
  assert done.status == 0, done.err
  content = json.loads(directory.with_suffix('.json').read_text())
  losses = content['result']['loss']
  assert losses[0] == 123 and len(losses) == 5
  model = analysis.load(workdirs[1])
  direction = analysis.random_direction(model.params, 10)
  expected = analysis.scan(
    model.objective(), model.params, [direction], np.linspace(-1, 1, 5)[-2:]
  )
  np.testing.assert_allclose(losses[-2:], expected, rtol=1e-5)
  assert not directory.exists()


@pytest.fixture(scope='module')
def broken(tmp_path_factory):
  """Directories of which nothing can be measured, or less."""
  root = tmp_path_factory.mktemp('broken')
  (root / 'empty').mkdir()
  plain = PLAIN | {'method.name': 'sgd', 'model.norm': 'none', 'num_steps': 1}
  tiny.train(root / 'other', **plain)
  tiny.train(root / 'small', **plain | {'data.train_size': 48})
  return root


@pytest.mark.parametrize(
  ('arguments', 'answer'),
  [
    ((), 'give one of the commands hessian, sharpness'),
    (('hesian', '--workdir={run}'), 'got hesian'),
    (('hessian',), 'give --workdir once or several times; got 0'),
    (('hessian', '--workdir={broken}/empty'), 'no run directory'),
    (('hessian', '--workdir={run}', '--checkpoint=7'), 'no checkpoint 7'),
    (('hessian', '--workdir={run}', '--k=100000'), 'k is 100000; it must be'),
    (('sharpness', '--workdir={run}', '--m=500'), 'm is 500; it must be in'),
    # That of the second, before anything of the first is written.
    (
      ('sharpness', '--workdir={run}', '--workdir={broken}/small', '--m=64'),
      'm is 64; it must be in [1, 48]',
    ),
    (('sharpness', '--workdir={run}', '--rho=-1'), 'rho is -1'),
    (('landscape', '--workdir={run}', '--output=a.pdf'), 'must end in .png'),
    (('interpolate', '--workdir={run}'), 'give --workdir twice; got 1'),
    (
      ('interpolate', '--workdir={run}', '--workdir={broken}/other'),
      'one and the same model',
    ),
  ],
)
def test_bad_input_is_one_line(command, workdirs, broken, arguments, answer):
  places = {'run': workdirs[0], 'broken': broken}
  before = tiny.tree(workdirs[0]).keys()
  done = command('analyze', *(a.format(**places) for a in arguments))
  assert done.status == 2
  assert done.err.startswith('analyze: ') and answer in done.err
  assert done.err.count('\n') == 1
  assert tiny.tree(workdirs[0]).keys() == before


def test_weights_that_are_nan_are_one_line(command, monkeypatch, workdirs):
  # Training stops before it saves such a checkpoint; others may not.
  restore = loading.restore

  def restore_nan(*args, **options):
    restored = restore(*args, **options)
    nan = jax.tree.map(lambda x: np.full_like(x, np.nan), restored.variables)
    return dataclasses.replace(restored, variables=nan)

  monkeypatch.setattr(loading, 'restore', restore_nan)
  done = command('analyze', 'hessian', f'--workdir={workdirs[0]}')
  assert done.status == 2
  assert 'the parameters hold NaN or infinity' in done.err
  assert done.err.count('\n') == 1

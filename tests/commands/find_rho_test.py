"""scripts/find_rho.py: the grid, and what follows from its errors."""

import re
import subprocess
import sys

import pytest
import tiny
from matplotlib import pyplot as plt

from sam_jax.runs import workdir
from sam_jax.sweeps import cells as cells_lib, statistics

# One microbatch, which is quick to compile.
WHOLE = {'m': 16, 'microbatch_size': 16}


def _run(config, directory, *options, cwd=tiny.ROOT):
  return subprocess.run(
    [
      sys.executable,
      str(tiny.ROOT / 'scripts' / 'find_rho.py'),
      f'--config={config}',
      f'--workdir={directory}',
      *options,
    ],
    cwd=cwd,
    env=tiny.environment(1),
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )


@pytest.mark.parametrize(
  ('errors', 'lines'),
  [
    # Paired differences to .2: .1, .1 and .1 in every seed; .05 once.
    (
      {0.0: [0.5, 0.6, 0.7], 0.1: [0.3, 0.3, 0.4], 0.2: [0.2, 0.3, 0.4]}
      | {0.5: [0.3, 0.4, 0.5]},
      ['rho = 0.2; not to be told apart from it: 0.1'],
    ),
    (
      {0.0: [0.5, 0.6], 0.1: [0.4, 0.5], 0.2: [0.3, 0.4]},
      ['rho = 0.2', 'it is the largest that was tried'],
    ),
    ({0.0: [0.1, 0.2], 0.1: [0.4, 0.5]}, ['no rho of these is better']),
    # Of equal means, the smallest; of one run nobody knows.
    (
      {0.0: [0.5], 0.1: [0.3], 0.2: [0.3], 0.5: [0.4]},
      ['rho = 0.1; not to be told apart from it: 0, 0.2, 0.5'],
    ),
  ],
)
def test_it_recommends_the_lowest_mean_and_says_what_is_as_good(errors, lines):
  found = statistics.recommend(errors).splitlines()
  assert len(found) == len(lines)
  for line, expected in zip(found, lines, strict=True):
    assert line.endswith(expected) or expected in line
  # Nothing is said of others.
  assert ('not to be told apart' in found[0]) == (';' in lines[0])


@pytest.mark.slow
def test_it_runs_the_grid_on_the_validation_split_and_draws_it(tmp_path):
  config = tiny.config_file(tmp_path, num_epochs=7, **WHOLE)
  runs = tmp_path / 'runs'
  options = ('--rhos=0.2,0.1', '--seeds=2', '--workers=2')
  # The file is one of the directory where the command is given.
  options += ('--set=data.label_noise=0.2',)
  done = _run(config.name, 'runs', *options, cwd=tmp_path)
  assert done.returncode == 0, done.stdout + done.stderr
  configs = [
    workdir.read_config(path.parent) for path in runs.glob('*/config.json')
  ]
  assert sorted((c.sam.rho, c.seed) for c in configs) == [
    (rho, seed) for rho in (0.0, 0.1, 0.2) for seed in (0, 1)
  ]
  for made in configs:
    assert (made.data.split, made.num_epochs) == ('validation', 1)
    assert (made.method, made.data.label_noise) == ('sam', 0.2)
  # The table has the means of what the runs found.
  rows = re.findall(r'^ +(\S+) +(\S+) ± \S+ +2$', done.stdout, re.M)
  assert [float(rho) for rho, _ in rows] == [0, 0.1, 0.2]
  for rho, shown in rows:
    results = [
      cells_lib.result(path)['final_error_rate']
      for path in runs.glob(f'*method.rho={float(rho)},*')
    ]
    assert float(shown) == pytest.approx(50 * sum(results), abs=0.006)
  assert re.search('best on the validation split|no rho', done.stdout)
  assert plt.imread(runs / 'rho.png').std() > 0.01
  # Nothing is left to do, and another length is another run.
  again = _run(config, runs, *options)
  assert again.returncode == 0
  assert len(list(runs.glob('*/config.json'))) == 6


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (('--rhos=0.1,much',), "'much', which is no number"),
    (('--rhos=-0.1',), 'rho is a radius'),
    (('--rhos=0',), 'give values above 0'),
    (('--set=sam.roh=1',), 'sam.roh'),
    (('--set=method.rho',), 'is no FIELD=VALUE'),
    (('--set=seed=3',), 'seed is what is searched by; give --seeds'),
    (('--set=method.rho=3',), 'give --rhos'),
    (('more',), 'unknown arguments: more'),
  ],
)
def test_a_bad_command_is_one_line(tmp_path, options, message):
  config = tiny.config_file(tmp_path)
  done = _run(config, tmp_path / 'runs', *options)
  assert done.returncode == 2
  assert done.stderr.count('\n') == 1
  assert message in done.stderr
  assert not (tmp_path / 'runs').exists()


def test_a_length_that_would_not_count_is_refused(tmp_path):
  done = _run('configs/finetune.py', tmp_path / 'runs', '--set=num_epochs=2')
  assert done.returncode == 2
  assert 'num_steps = 5000, which --set=num_epochs does' in done.stderr
  assert not (tmp_path / 'runs').exists()

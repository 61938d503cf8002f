"""Does a model forget less of its text if SAM trained it?

    python scripts/examples/forgetting.py --runs=runs/text

Takes the finished language models below a directory, of a comparison or a
sweep, and trains each for some steps more on another text, all by the same
plain AdamW. Prints, for each method that made the models, what they score on
the test split of their first text before and after, the difference, which is
what they forgot, and the score on the new text. Means and 95 % confidence
intervals are over the seeds.

Every run is kept, and the same command again resumes where it stopped. The new
text is by default Debian's package `bible-kjv-text`; --text takes a file or a
folder in its place. On two CPU cores a run of the default length takes about a
minute.
"""

import os
import pathlib
import sys
from collections.abc import Sequence

# The checkout goes first, installed or not.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from sam_jax import _cli, configs, tasks
from sam_jax.runs import bootstrap, evaluation, files, loading
from sam_jax.sweeps import (
  cells as cells_lib,
  execution,
  pool,
  results,
  statistics,
  tables,
)

flags = _cli.Flags()
_RUNS = flags.DEFINE_string(
  'runs', None, 'Directory of the models to begin with.', required=True
)
_DIRECTORY = flags.DEFINE_string(
  'directory', 'runs/forgetting', 'Where the new runs and the table go.'
)
_TEXT = flags.DEFINE_string(
  'text', None, 'File or folder of the new text; by default the Bible.'
)
_STEPS = flags.DEFINE_integer(
  'steps', 100, 'Steps on the new text.', lower_bound=1
)
_LEARNING_RATE = flags.DEFINE_float(
  'learning_rate', 1e-3, 'Largest learning rate on the new text.'
)
_WORKERS = flags.DEFINE_integer(
  'workers', 2, 'Number of runs at a time.', lower_bound=1
)


def main(argv: Sequence[str]) -> int:
  _cli.refuse_arguments(argv[1:])
  directory = files.run_directory(_DIRECTORY.value)
  first = _models(files.user_path(_RUNS.value))
  cells = [_cell(run) for run in first]
  place = pool.Pool(directory, workers=_WORKERS.value)
  status = execution.execute(cells, directory, place, check=True)
  if status:
    return status
  found: dict[str, list[dict[str, float]]] = {}
  for run, cell in zip(first, cells, strict=True):
    numbers = _numbers(run, cells_lib.workdir(cell, directory))
    found.setdefault(run.fields['method.name'], []).append(numbers)
  rows = [_row(name, same, first[0].score) for name, same in found.items()]
  print(tables.write_rows(directory / 'forgetting', rows))
  return 0


def _models(directory: pathlib.Path) -> list[results.FinishedRun]:
  """Returns the runs that were evaluated on a test split."""
  runs = [r for r in results.collect(directory).runs if r.split == 'test']
  if not runs:
    raise ValueError(
      f'{directory} has no finished run with data.split=test; run one first'
    )
  return runs


def _cell(run: results.FinishedRun) -> cells_lib.Fields:
  """Returns the run that goes on from a model."""
  text = {} if _TEXT.value is None else {'data.directory': _TEXT.value}
  return text | {
    cells_lib.CONFIG: configs.find('text:text' if text else 'text:bible'),
    'init_from': str(run.workdir),
    'method.name': 'sgd',
    'method.rho': None,
    'num_steps': _STEPS.value,
    'learning_rate': _LEARNING_RATE.value,
    'schedule.warmup_steps': _STEPS.value // 10,
    'log.tensorboard': False,
    'seed': run.fields['seed'],
  }


def _numbers(
  run: results.FinishedRun, workdir: pathlib.Path
) -> dict[str, float]:
  """Returns what a model scores before and after, on both texts."""
  own = loading.restore(run.workdir)
  examples = bootstrap.examples(own.config, run.workdir, 'test', own.task.info)
  parts = loading.restore(workdir).predict(examples)
  after = evaluation.summarize_predictions(parts, own.task)[run.score.metric]
  before = run.result[results.FINAL]
  new = results.collect(workdir).runs[0].result[results.FINAL]
  return {
    'before': before,
    'after': after,
    'forgotten': after - before,
    'on the new text': new,
  }


def _row(
  method: str, found: Sequence[dict[str, float]], score: tasks.Score
) -> tables.Row:
  """Returns the means of a method's models."""
  row = {'method': method, 'n': str(len(found))}
  for name in found[0]:
    mean = statistics.estimate([numbers[name] for numbers in found])
    sign = '+' if name == 'forgotten' else ''
    row[f'{name}, {score.heading()}'] = tables.interval(mean, score, sign)
  return row


if __name__ == '__main__':
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  _cli.run(main, 'forgetting', flags)

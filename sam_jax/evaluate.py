"""Evaluates a trained model and writes its predictions.

    python -m sam_jax.evaluate --workdir=runs/a --checkpoint=best --split=test

Prints the metrics as one JSON object. The predictions go to a CSV file with a
row for each example: its number, the path of its file if the data set has
files, and the columns of the task. For image classification these are the
label, the prediction, the names of the two classes, and the probability of the
prediction. For language modelling they are the number of tokens of the window
and its metrics. If the name of the file ends in .npz, it has arrays with these
names, and the outputs of the model.

A run is evaluated on its own data, and data that have changed since are
refused. --directory evaluates it on other data that have the same classes.

Exit status: 0 done, 2 the run, the checkpoint or the output is not usable.
"""

import csv
import io
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from sam_jax import _cli

if TYPE_CHECKING:
  from sam_jax.runs import loading

flags = _cli.Flags()
_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Run directory, or the name of a run that comes with the package.',
  required=True,
)
_CHECKPOINT = flags.DEFINE_string(
  'checkpoint', 'last', "'last', 'best', or a step."
)
_SPLIT = flags.DEFINE_enum(
  'split',
  'test',
  ['test', 'validation', 'train'],
  "What to evaluate on; 'train' has the labels that the run was trained with.",
)
_DIRECTORY = flags.DEFINE_string(
  'directory',
  None,
  'Directory of another data set of the same kind and classes; needs --output.',
)
_OUTPUT = flags.DEFINE_string(
  'output',
  None,
  'File for the predictions, .csv or .npz. Default: predictions_SPLIT_STEP.csv '
  'in the run directory.',
)
_BATCH_SIZE = flags.DEFINE_integer(
  'batch_size',
  256,
  'Examples at once; the result does not depend on it.',
  lower_bound=1,
)
_NO_PLUGINS = _cli.define_no_plugins(flags)


def main(argv: Sequence[str]) -> None:
  """Does what the flags say; raises if it cannot be done."""
  from sam_jax.runs import loading, shipped

  _cli.refuse_arguments(argv[1:])
  workdir = shipped.find(_WORKDIR.value)
  restored = loading.restore(
    workdir,
    _cli.checkpoint(_CHECKPOINT.value),
    plugins=not _NO_PLUGINS.value,
  )
  output = _output_path(workdir, restored.step)
  examples = _examples(restored, workdir)
  columns, outputs, metrics = _predict(
    restored, examples, keeps_outputs=output.suffix == '.npz'
  )
  if paths := restored.task.files(examples):
    columns = {'file': np.array(paths), **columns}
  _write(output, columns, outputs)
  summary = {
    'checkpoint': restored.step,
    'split': _SPLIT.value,
    'examples': restored.task.count(examples),
    **metrics,
    'predictions': str(output),
  }
  print(json.dumps(summary, indent=2))


def _predict(
  restored: 'loading.Restored', examples: Any, *, keeps_outputs: bool
) -> tuple[dict[str, np.ndarray], Any, dict[str, float]]:
  """Returns the columns of the table, the outputs and the metrics.

  Outputs of a language model are many; they are kept only if they are wanted.
  """
  from sam_jax.runs import evaluation

  task, tables, outputs, parts = restored.task, [], [], []
  for part in restored.predict(examples, _BATCH_SIZE.value):
    tables.append(task.predictions(part.outputs, part.batch))
    if keeps_outputs:
      outputs.append(part.outputs)
    parts.append(part._replace(outputs=None, batch={}))

  metrics = evaluation.summarize_predictions(parts, task)
  columns = {
    name: np.concatenate([table[name] for table in tables])
    for name in tables[0]
  }
  return columns, np.concatenate(outputs) if outputs else None, metrics


def _examples(restored: 'loading.Restored', workdir: pathlib.Path) -> Any:
  """Returns what to evaluate on; says so if it is not the run's own."""
  from sam_jax.runs import bootstrap, files

  info, split = restored.task.info, _SPLIT.value
  if not _DIRECTORY.value:
    return bootstrap.examples(restored.config, workdir, split, info)
  directory = str(files.user_path(_DIRECTORY.value))
  examples = bootstrap.other_examples(restored.config, directory, split, info)
  print(
    f'evaluate: the data are the split {split!r} of {directory}, which may be '
    'other data than those of the run',
    file=sys.stderr,
  )
  return examples


def _output_path(workdir: pathlib.Path, step: int) -> pathlib.Path:
  """Returns where the predictions go."""
  from sam_jax.runs import files

  if _OUTPUT.value is not None:
    path = files.user_path(_OUTPUT.value)
  elif _DIRECTORY.value:
    raise ValueError(
      'give --output too: with --directory the predictions are of other data '
      'than those of the run, and do not belong in the run directory'
    )
  else:
    path = workdir / f'predictions_{_SPLIT.value}_{step}.csv'
  if path.suffix not in ('.csv', '.npz'):
    raise ValueError(f'--output is {path}; it must end in .csv or .npz')
  if not path.parent.is_dir():
    raise ValueError(f'--output is {path}; there is no such directory')
  return path


def _write(
  path: pathlib.Path, columns: dict[str, np.ndarray], outputs: Any
) -> None:
  """Writes the table or the arrays, as the name of the file asks for."""
  from sam_jax.runs import files

  def write(stream: BinaryIO) -> None:
    if path.suffix == '.csv':
      return _write_csv(stream, **columns)
    arrays: dict[str, Any] = columns | {'outputs': outputs}
    return np.savez(stream, **arrays)

  files.write_atomically(path, write)


def _write_csv(stream: BinaryIO, **columns: np.ndarray) -> None:
  """Writes a row per example."""
  text = io.TextIOWrapper(
    stream, 'utf-8', errors='surrogateescape', newline='', write_through=True
  )
  writer = csv.writer(text, lineterminator='\n')
  count = len(next(iter(columns.values())))
  columns = {'index': np.arange(count), **columns}
  writer.writerow(columns)
  writer.writerows(zip(*map(_texts, columns.values()), strict=True))
  text.detach()


def _texts(column: np.ndarray) -> list[str]:
  """Returns the values of a column as they are written."""
  if np.issubdtype(column.dtype, np.floating):
    return [f'{value:.6f}' for value in column]
  return [str(value) for value in column.tolist()]


def cli() -> None:
  """Runs the command with the arguments of this process."""
  _cli.run(main, 'evaluate', flags)


if __name__ == '__main__':
  cli()

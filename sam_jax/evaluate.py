"""Evaluates a trained model and writes its predictions.

    python -m sam_jax.evaluate --workdir=runs/a --checkpoint=best --split=test

Prints the metrics as one JSON object. The predictions go to a CSV file (one row
per example: index, label, prediction, probability of the prediction) or, if
the name ends in .npz, to arrays: label, prediction, logits.

Exit status: 0 done, 2 the run, the checkpoint or the output is not usable.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from sam_jax import _cli

flags = _cli.Flags()
_WORKDIR = flags.DEFINE_string('workdir', None, 'Run directory.', required=True)
_CHECKPOINT = flags.DEFINE_string(
  'checkpoint', 'last', "'last', 'best', or a step."
)
_SPLIT = flags.DEFINE_enum(
  'split',
  'test',
  ['test', 'validation', 'train'],
  'What to evaluate on; train has the labels that the run was trained on.',
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


def main(argv: Sequence[str]) -> None:
  """Does what the flags say; raises if it cannot be done."""
  from sam_jax.runs import bootstrap, evaluation, loading

  _cli.refuse_arguments(argv[1:])
  workdir = _cli.user_path(_WORKDIR.value)
  run, info = loading.load_with_info(
    workdir, _cli.checkpoint(_CHECKPOINT.value)
  )
  output = _output_path(workdir, info['step'])
  examples = bootstrap.examples(run.config, workdir, _SPLIT.value)
  parts = loading.predict(run, info, examples, _BATCH_SIZE.value)
  logits = np.concatenate(list(parts))
  metrics = evaluation.example_metrics(
    jnp.asarray(logits), jnp.asarray(examples.labels)
  )
  columns, arrays = _predictions(logits, examples.labels)
  _write(output, columns, arrays)
  summary = {
    'checkpoint': info['step'],
    'split': _SPLIT.value,
    'examples': len(examples.labels),
    **{key: float(np.mean(value)) for key, value in metrics.items()},
    'predictions': str(output),
  }
  print(json.dumps(summary, indent=2))


Columns = dict[str, Any]  # arrays by name


def _predictions(logits: np.ndarray, labels: np.ndarray) -> tuple[Columns, ...]:
  """Returns what is written of the predictions.

  Args:
    logits: outputs of the model, `[examples, classes]`.
    labels: `[examples]`.

  Returns:
    Columns of a table, one number per example; and arrays of any shape.
  """
  import scipy.special

  prediction = np.argmax(logits, axis=-1)
  probability = np.max(scipy.special.softmax(logits, axis=-1), axis=-1)
  shared = {'label': labels, 'prediction': prediction}
  return shared | {'probability': probability}, shared | {'logits': logits}


def _output_path(workdir: pathlib.Path, step: int) -> pathlib.Path:
  """Returns where the predictions go."""
  if _OUTPUT.value:
    path = _cli.user_path(_OUTPUT.value)
  else:
    path = workdir / f'predictions_{_SPLIT.value}_{step}.csv'
  if path.suffix not in ('.csv', '.npz'):
    raise ValueError(f'--output is {path}; it must end in .csv or .npz')
  if not path.parent.is_dir():
    raise ValueError(f'--output is {path}; there is no such directory')
  return path


def _write(path: pathlib.Path, columns: Columns, arrays: Columns) -> None:
  """Writes the table or the arrays, as the name of the file asks for."""
  if path.suffix == '.npz':
    np.savez(path, **arrays)
    return
  columns = {'index': np.arange(len(columns['label'])), **columns}
  np.savetxt(
    path,
    np.stack(list(columns.values()), 1),
    fmt=[
      '%d' if np.issubdtype(column.dtype, np.integer) else '%.6f'
      for column in columns.values()
    ],
    delimiter=',',
    header=','.join(columns),
    comments='',
  )


def cli() -> None:
  """Runs the command with the arguments of this process."""
  _cli.run(main, 'evaluate', flags)


if __name__ == '__main__':
  cli()

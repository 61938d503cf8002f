"""Evaluates a trained model and writes its predictions.

    python scripts/evaluate.py --workdir=runs/a --checkpoint=best --split=test

Prints the metrics as one JSON object. The predictions go to a CSV file (one row
per example: index, label, prediction, probability of the prediction) or, if
the name ends in .npz, to arrays: label, prediction, logits.
"""

import json
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
import scipy.special
from absl import app, flags, logging

# The checkout goes first, installed or not.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from sam_jax.runs import bootstrap, evaluation, loading

_WORKDIR = flags.DEFINE_string('workdir', None, 'Run directory.', required=True)
_CHECKPOINT = flags.DEFINE_string(
  'checkpoint', 'last', "'last', 'best', or a step."
)
_SPLIT = flags.DEFINE_enum(
  'split',
  'test',
  ['test', 'validation', 'train'],
  'What to evaluate on; train is what it trained on, with the labels it had.',
)
_OUTPUT = flags.DEFINE_string(
  'output',
  None,
  'File for the predictions, .csv or .npz. Default: predictions_SPLIT_STEP.csv '
  'in the run directory.',
)
_BATCH_SIZE = flags.DEFINE_integer(
  'batch_size', 256, 'Examples at once; the result does not depend on it.'
)


def main(argv: Sequence[str]) -> None:
  if not logging.get_verbosity():  # the libraries' chatter, unless asked for
    logging.set_verbosity(logging.WARNING)
  try:
    _run(argv)
  except (ValueError, OSError) as error:
    print(f'evaluate: {error}', file=sys.stderr)
    sys.exit(2)


def _run(argv: Sequence[str]) -> None:
  """Does what the flags say; raises if it cannot be done."""
  if len(argv) > 1:
    raise ValueError(f'unknown arguments: {" ".join(argv[1:])}')
  name = _CHECKPOINT.value
  checkpoint = int(name) if name.isdigit() else name
  run, info = loading.load_with_info(_WORKDIR.value, checkpoint)
  output = _output_path(info['step'])
  examples = bootstrap.examples(
    run.config, pathlib.Path(_WORKDIR.value), _SPLIT.value
  )
  parts = loading.predict(run, info, examples, _BATCH_SIZE.value)
  logits = np.concatenate(list(parts))
  metrics = evaluation.example_metrics(logits, examples.labels)
  means = {key: float(np.mean(value)) for key, value in metrics.items()}
  _write(output, logits, examples.labels)
  summary = {
    'checkpoint': info['step'],
    'split': _SPLIT.value,
    'examples': len(examples.labels),
    **means,
    'predictions': str(output),
  }
  print(json.dumps(summary, indent=2))


def _output_path(step: int) -> pathlib.Path:
  """Returns where the predictions go."""
  default = f'{_WORKDIR.value}/predictions_{_SPLIT.value}_{step}.csv'
  path = pathlib.Path(_OUTPUT.value or default)
  if path.suffix not in ('.csv', '.npz'):
    raise ValueError(f'--output is {path}; it must end in .csv or .npz')
  if not path.parent.is_dir():
    raise ValueError(f'--output is {path}; there is no such directory')
  return path


def _write(path: pathlib.Path, logits: np.ndarray, labels: np.ndarray) -> None:
  """Writes the predictions."""
  prediction = np.argmax(logits, axis=-1)
  if path.suffix == '.npz':
    np.savez(path, label=labels, prediction=prediction, logits=logits)
    return
  probability = np.max(scipy.special.softmax(logits, axis=-1), axis=-1)
  rows = np.stack([np.arange(len(labels)), labels, prediction, probability], 1)
  np.savetxt(
    path,
    rows,
    fmt=('%d', '%d', '%d', '%.6f'),
    delimiter=',',
    header='index,label,prediction,probability',
    comments='',
  )


if __name__ == '__main__':
  app.run(main)

"""Runs that nobody made: what a report reads, without training."""

import json

from sam_jax.runs import workdir
from tests import tiny

VERSIONS = {'git_commit': 'a', 'versions': {'jax': '1'}, 'device': '1 x cpu'}
ERROR = {'metric': 'error_rate', 'label': 'error', 'unit': '%', 'scale': 100.0}
# What a finished run leaves, at least.
RESULT = {
  'split': 'test',
  'final_score': 0.125,
  'best_score': 0.125,
  'score': {'metric': 'loss', 'label': 'loss', 'unit': 'nats', 'scale': 1.0},
  'steps': 5,
  'gradient_evaluations': 10.0,
  'wall_seconds': 3.0,
}


def write_run(
  root, name, values, *, finished=True, versions=None, score=ERROR, **fields
):
  """Writes a run that ends with the last of the values, one for each epoch."""
  directory = root / name
  config = tiny.config(**fields)
  workdir.write_config(directory, config)
  split = config.data.split
  with (directory / 'metrics.jsonl').open('w') as stream:
    for i, value in enumerate(values):
      metrics = {score['metric']: value, 'second_metric': value / 5}
      line = {f'{split}/{name}': v for name, v in metrics.items()}
      line |= {'step': 5 * i + 5, 'epoch': i + 1}
      stream.write(json.dumps(line) + '\n')
  if finished:
    result = {
      'steps': 5 * len(values),
      'split': split,
      'final_score': values[-1],
      'best_score': min(values),
      'score': score,
      'gradient_evaluations': 10.0 * len(values),
      'wall_seconds': 3.0,
      **(versions or VERSIONS),
    }
    workdir.write_result(directory, result)


def sweep(root):
  """Writes SGD and three rhos, two splits and seeds; the best rho is 0.2."""
  errors = {0.1: 0.3, 0.2: 0.1, 0.5: 0.2}
  for split, offset in (('validation', 0.0), ('test', 0.02)):
    for seed in (0, 1):
      fields = {'data.split': split, 'seed': seed}
      error = 0.4 + offset + 0.01 * seed
      name = f'{split}-{seed}'
      write_run(
        root, f'sgd-{name}', [0.9, error], **{'method.name': 'sgd'}, **fields
      )
      for rho, level in errors.items():
        # On the test split another rho would look better.
        bonus = 0.15 if (split, rho) == ('test', 0.5) else 0
        error = level + offset - bonus + 0.01 * seed
        fields['method.rho'] = rho
        write_run(root, f'sam-{rho}-{name}', [0.9, error], **fields)
  return root

"""Writers: where the lines of metrics.jsonl go besides.

`config.log.writers` names them, 'wandb' or 'mlflow' for example, and
`config.log.tensorboard` adds 'tensorboard'. A writer of a user's own is a class
in a module that `config.plugins` names:

    from sam_jax.runs import writers

    @writers.register('chat')
    class Chat(writers.Writer):
      def open(self, start):
        return start.rows

      def write(self, number, line):
        if 'test/error_rate' in line:
          send(f'step {line["step"]}: error rate {line["test/error_rate"]:.4f}')

metrics.jsonl is the record of a run, and a writer follows it: a failure of a
writer is one warning, and the run goes on. Of several processes that train
together, the first one writes.
"""

from sam_jax.runs.writers._mlflow import Mlflow
from sam_jax.runs.writers._tensorboard import TensorBoard
from sam_jax.runs.writers._wandb import Wandb
from sam_jax.runs.writers.base import (
  Line,
  Writer,
  check,
  create,
  named,
  names,
  register,
)
from sam_jax.runs.writers.followers import Followers

__all__ = [
  'Followers',
  'Line',
  'Mlflow',
  'TensorBoard',
  'Wandb',
  'Writer',
  'check',
  'create',
  'named',
  'names',
  'register',
]

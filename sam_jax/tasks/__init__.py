"""Tasks: what a batch, a loss and a score are.

The step, the loop, checkpoints and reports know a task only as `Task`. A task
of one's own is a subclass of it, or of `ImageTask`, under a name for configs.
"""

from sam_jax import extras

with extras.required():
  from sam_jax.tasks.base import Batch, Score, Task
  from sam_jax.tasks.image_classification import ImageClassification, ImageTask
  from sam_jax.tasks.language_modelling import LanguageModelling
  from sam_jax.tasks.registry import create, get, names, options, register

__all__ = [
  'Batch',
  'ImageClassification',
  'ImageTask',
  'LanguageModelling',
  'Score',
  'Task',
  'create',
  'get',
  'names',
  'options',
  'register',
]

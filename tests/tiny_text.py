"""Runs of a few steps on a text, with the smallest model: fields for `tiny`."""

FIELDS = {
  'plugins': ('tests.plugins.tiny_lm',),
  'task.name': 'language_modelling',
  'model.name': 'tiny_lm',
  'data.name': 'text',
  'data.train_size': None,
  'data.context_length': 8,
  'batch_size': 8,
  'm': 8,
  'microbatch_size': 8,
  'num_steps': 8,
  'augmentation.name': 'none',
  'augmentation.cutout_length': 0,
  'gradient_clipping': 0.0,
  'optimizer.momentum': 0.0,
  'schedule.name': 'constant',
  'weight_decay.rate': 0.0,
  'checkpoint.every_steps': 4,
} | dict.fromkeys(
  [
    'model.norm',
    'model.features',
    'model.hidden',
    'model.activation',
    'model.dropout_rate',
  ]
)


def write(directory, words='abcab '):
  """Writes 996 letters in a pattern that can be learnt; returns where."""
  (directory / 'a.txt').write_text(words * 166)
  return str(directory)

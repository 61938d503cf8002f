"""Fields that a section must not have, because another one says the same."""

# Name -> what to set instead.
FIELDS = {
  'model.norm_axes': "model.norm='synced'",
  'model.num_classes': 'another data set',
  'optimizer.gradient_clipping': 'gradient_clipping',
  'optimizer.learning_rate': 'learning_rate',
  'optimizer.mask': 'weight_decay.exclude',
  'optimizer.params': 'another model',
  'optimizer.weight_decay': 'weight_decay.rate and weight_decay.place',
  'optimizer.weight_decay_exclude': 'weight_decay.exclude',
  'optimizer.weight_decay_mask': 'weight_decay.exclude',
  'optimizer.weight_decay_place': 'weight_decay.place',
  'schedule.learning_rate': 'learning_rate',
  'schedule.num_steps': 'num_steps',
  'task.augmentation': 'a field of augmentation',
  'task.info': 'another data set',
  'task.label_smoothing': 'label_smoothing',
  'task.mixing': 'a field of mixing',
  'task.model': 'a field of model',
}


def check(name: str) -> None:
  """Refuses a field that has another place.

  Args:
    name: dotted.

  Raises:
    ValueError: the message says what to set instead.

  Example:
    >>> from sam_jax.runs import reserved
    >>> reserved.check('optimizer.weight_decay')
    Traceback (most recent call last):
      ...
    ValueError: the config has no field 'optimizer.weight_decay'; set weight...
  """
  if name in FIELDS:
    raise ValueError(f'the config has no field {name!r}; set {FIELDS[name]}')

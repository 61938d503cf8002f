import numpy as np
import pytest

from sam_jax import tasks
from sam_jax.tasks import registry

_INFO = {'num_classes': 3, 'image_shape': (2, 2, 1), 'mean': (0,), 'std': (1,)}
_OFF = {
  'augmentation': {'name': 'none', 'cutout_length': 0},
  'mixing': {'name': 'none'},
  'label_smoothing': 0.0,
}


@pytest.fixture
def plain(monkeypatch):
  """Registers a task that takes a field of its own, and no mixing."""
  monkeypatch.setattr(registry, '_TASKS', dict(registry._TASKS))

  @tasks.register('plain_here')
  class Plain(tasks.ImageTask):
    score = tasks.Score('squared_error', 'squared error')

    def __init__(self, model, info, *, augmentation=None, scale=2.0):
      super().__init__(model, info, augmentation=augmentation)
      self.scale = scale

    def example_losses(self, outputs, batch):
      return outputs

    def example_metrics(self, outputs, batch):
      return {'loss': outputs, 'squared_error': outputs}

  return Plain


def test_a_task_is_known_by_its_name(plain):
  assert tasks.get('plain_here') is plain
  assert {'image_classification', 'plain_here'} <= set(tasks.names())
  with pytest.raises(ValueError, match="'plain_here' is registered already"):
    tasks.register('plain_here')(plain)
  with pytest.raises(ValueError, match="unknown task 'plain'.*plain_here"):
    tasks.get('plain')


@pytest.mark.parametrize(('given', 'scale'), [({}, 2.0), ({'scale': 3.0}, 3.0)])
def test_none_is_the_default_of_a_field(plain, given, scale):
  fields = _OFF | {'scale': None} | given
  assert tasks.create('plain_here', None, _INFO, **fields).scale == scale


@pytest.mark.parametrize(
  'field',
  [
    {'mixing': {'name': 'mixup'}},
    {'label_smoothing': 0.1},
    {'no_such_field': 1},
  ],
  ids=str,
)
def test_a_field_that_a_task_does_not_take_has_to_be_off(plain, field):
  (name,) = field
  with pytest.raises(
    ValueError, match=f'takes no {name}; it takes aug'
  ) as error:
    tasks.create('plain_here', None, _INFO, **_OFF | field)
  assert '\n' not in str(error.value)


def test_a_task_without_labels_says_that_it_has_none(plain):
  task = tasks.create('plain_here', None, _INFO)
  with pytest.raises(ValueError, match='Plain does not; leave it out'):
    task.predicted_labels(np.zeros((1, 3)))


@pytest.mark.parametrize(
  ('score', 'value', 'text'),
  [
    (tasks.Score('error_rate', 'error', '%', 100.0), 0.0321, '3.21 %'),
    (tasks.Score('loss', 'loss'), 0.012345, '0.01235'),
    (tasks.Score('loss', 'loss', 'nats'), 1.5, '1.5 nats'),
  ],
)
def test_a_score_is_read_in_its_unit(score, value, text):
  assert score.text(value) == text

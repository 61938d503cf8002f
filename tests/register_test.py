"""`register` of every registry: used as a decorator, on what it is for."""

import pytest
from flax import linen as nn

from sam_jax import datasets, methods, models, perturbations, tasks
from sam_jax.methods import choices
from sam_jax.runs import writers


class _Model(nn.Module):
  num_classes: int


# Each registry by the name that a message has for it, with what fits in it.
_REGISTRIES = {
  'models': (models.register, _Model),
  'datasets': (datasets.register, lambda directory, seed: None),
  'tasks': (tasks.register, tasks.ImageTask),
  'methods': (methods.register, methods.Method),
  'writers': (writers.register, writers.Writer),
  'metric': (choices.Axis('metric').register, lambda: None),
}


@pytest.fixture(autouse=True)
def forget(monkeypatch):
  """Forgets what a test registers."""
  for module, table in (
    (models.registry, '_REGISTRY'),
    (datasets.registry, '_LOADERS'),
    (tasks.registry, '_TASKS'),
    (methods.registry, '_METHODS'),
    (writers.base, '_WRITERS'),
  ):
    monkeypatch.setattr(module, table, dict(getattr(module, table)))


@pytest.mark.parametrize('name', _REGISTRIES)
def test_register_without_a_decorator_is_one_line_with_the_call(name):
  register, what = _REGISTRIES[name]
  with pytest.raises(ValueError, match=f"write @{name}.register\\('mine'\\)"):
    register('mine', what)
  with pytest.raises(
    ValueError, match=f"write @{name}.register\\('my_name'\\)"
  ):
    register(what)  # the decorator without parentheses


@pytest.mark.parametrize('name', _REGISTRIES)
def test_what_makes_nothing_is_not_registered(name):
  register, what = _REGISTRIES[name]
  for _ in range(2):  # it has not taken the name
    with pytest.raises(
      ValueError, match="'wrong_thing' is 3; register a class"
    ):
      register('wrong_thing')(3)
  assert what  # the table is whole


@pytest.mark.parametrize(
  ('register', 'wrong', 'message'),
  [
    (models.register, dict, 'signature|num_classes'),
    (models.register, lambda width: None, 'takes no num_classes'),
    (tasks.register, _Model, 'must be a subclass of sam_jax.tasks.Task'),
    (tasks.register, lambda model, info: None, 'must be a subclass'),
    (writers.register, _Model, 'must be a subclass of sam_jax.runs.writers'),
    (writers.register, lambda project: None, "'wrong_kind' needs project"),
  ],
  ids=[
    'model-dict',
    'model-function',
    'task-class',
    'task-function',
    'writer-class',
    'writer-function',
  ],
)
def test_what_makes_something_else_is_refused_at_once(register, wrong, message):
  with pytest.raises(ValueError, match=message) as raised:
    register('wrong_kind')(wrong)
  assert '\n' not in str(raised.value)


def test_what_a_factory_returns_is_looked_at():
  @models.register('returns_none')
  def model(num_classes):
    return None

  @methods.register('returns_a_perturbation')
  def method(rho=0.1):
    return perturbations.l2(rho)

  @datasets.register('returns_arrays')
  def dataset(directory, seed):
    return [1], [2]

  for create, kind, wanted in (
    (lambda: models.create('returns_none', num_classes=2), 'model', 'Module'),
    (lambda: methods.create('returns_a_perturbation'), 'method', 'Method'),
    (lambda: datasets.create('returns_arrays'), 'data set', 'Source'),
  ):
    with pytest.raises(ValueError, match=f'{kind} .*must make a .*{wanted}'):
      create()


def test_what_was_decorated_is_returned_and_can_be_made():
  model = models.register('registered_here')(_Model)
  assert model is _Model
  assert isinstance(models.create('registered_here', num_classes=2), _Model)

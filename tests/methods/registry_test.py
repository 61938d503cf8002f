import jax.numpy as jnp
import pytest

from sam_jax import methods
from sam_jax.methods import radius, registry


def test_a_field_that_is_none_is_the_methods_default():
  given = methods.create('sam', rho=None, p=None, ascent_steps=2)
  assert given.ascent_steps == 2
  assert given.perturbation_fn(None) is not None


@pytest.mark.parametrize(
  'name, field, takers',
  [
    ('sgd', 'second_order', r'sam\b.*'),
    ('random', 'ascent_steps', r'sam\b.*'),
    ('sam', 'stretched', 'asam'),
    ('asam', 'metric', r'\w+, .*'),
    ('sgd', 'rho', r'\w+, .* and \d+ others'),
  ],
)
def test_a_field_of_other_methods_is_refused_with_their_names(
  name, field, takers
):
  message = f"'{name}' takes no {field}, and {field} is 2; .*: {takers}$"
  with pytest.raises(ValueError, match=message):
    methods.create(name, **{field: 2})


def test_a_field_of_no_method_is_refused_with_the_close_one():
  with pytest.raises(ValueError, match="unknown field of a method 'roh'.*rho"):
    methods.create('sam', roh=0.1)


@pytest.mark.parametrize(
  'name, fields, message',
  [
    ('sam', {'rho': -0.1}, 'rho is -0.1'),
    ('sam', {'rho': float('nan')}, 'rho is nan'),
    ('sam', {'p': 0.5}, 'p is 0.5'),
    ('sam', {'ascent_steps': 0}, 'ascent_steps is 0'),
    ('sam', {'ascent_steps': 2, 'second_order': True}, 'one ascent step'),
    ('sam', {'rho_schedule': 'linaer'}, "'linaer'.*did you mean 'linear'"),
    ('sam', {'rho_min': 0.01}, 'rho_min is 0.01, and rho_schedule is constant'),
    (
      'random',
      {'rho': 0.1, 'rho_schedule': 'linear', 'rho_min': 0.2},
      r'rho_min is 0.2; it must be in \[0, rho = 0.1\]',
    ),
    ('asam', {'eta': -1.0}, 'eta is -1.0'),
    ('gsam', {'alpha': -1.0}, 'alpha is -1.0'),
    ('looksam', {'every': 0}, 'every is 0'),
    ('looksam', {'alpha': -1.0}, 'alpha is -1.0'),
  ],
)
def test_values_out_of_range_are_refused_before_anything_runs(
  name, fields, message
):
  with pytest.raises(ValueError, match=message):
    methods.create(name, **fields)


def test_an_unknown_method_is_refused_with_the_close_one():
  with pytest.raises(ValueError, match=r"'same'; known: .*did you mean 'sam'"):
    methods.create('same')


def test_a_method_is_registered_once_with_its_own_fields(monkeypatch):
  monkeypatch.setattr(registry, '_METHODS', dict(registry._METHODS))
  made = []

  @methods.register('mine')
  def mine(strength=1.0):
    made.append(strength)
    return methods.sgd()

  methods.create('mine', strength=0.7)
  assert made == [0.7]
  assert methods.options('mine') == ['strength']
  with pytest.raises(ValueError, match='takes no strength.*: mine$'):
    methods.create('sam', strength=0.7)
  for name in ('mine', 'sam'):
    with pytest.raises(ValueError, match=f'{name!r} is registered already'):
      methods.register(name)(methods.sgd)


def test_a_radius_without_what_it_follows_says_what_is_missing():
  ctx = methods.Context(step=0)
  for schedule, missing in (
    ('linear', 'num_steps'),
    ('cosine', 'num_steps'),
    ('learning_rate', 'learning_rate'),
  ):
    with pytest.raises(ValueError, match=f'needs {missing}; give {missing}=..'):
      radius.create(0.1, schedule)(ctx)


def test_beyond_the_end_of_a_run_the_radius_stays_as_it_was_at_the_end():
  for schedule in ('linear', 'cosine'):
    radius_fn = radius.create(0.4, schedule, 0.1)
    ctx = methods.Context(step=jnp.int32(150), num_steps=100)
    assert radius_fn(ctx) == pytest.approx(0.1)


def test_without_a_learning_rate_the_radius_that_follows_it_is_the_smallest():
  ctx = methods.Context(0, learning_rate=0.0, peak_learning_rate=0.0)
  assert radius.create(0.4, 'learning_rate', 0.1)(ctx) == pytest.approx(0.1)


@pytest.mark.parametrize('name', ['sam', 'random', 'asam', 'gsam', 'looksam'])
@pytest.mark.parametrize('schedule', ['constant', 'linear'])
def test_without_a_radius_every_method_costs_one_gradient(name, schedule):
  method = methods.create(name, rho=0.0, rho_schedule=schedule)
  assert method.gradient_evaluations == 1


def test_a_method_that_takes_anything_gets_it(monkeypatch):
  monkeypatch.setattr(registry, '_METHODS', dict(registry._METHODS))

  @methods.register('open')
  class Open(methods.Method):
    def __init__(self, **fields):
      self.fields = fields

  assert methods.create('open', strength=2).fields == {'strength': 2}
  assert methods.options('open') is None


def test_the_defaults_are_those_of_the_factory():
  defaults = methods.defaults('gsam')
  assert defaults['rho_schedule'] == 'learning_rate'
  assert 'rho_min' not in defaults  # None: not set
  assert methods.defaults('sgd') == {}

"""The list of methods of a command line."""

import math

import pytest

from sam_jax import methods
from sam_jax.sweeps import method_list


@pytest.mark.parametrize(
  ('given', 'expected'),
  [
    ('sgd', {'sgd': {}}),
    (' sgd , sam ,', {'sgd': {}, 'sam': {}}),
    (
      'sam,asam(eta=0.01, p=inf)',
      {'sam': {}, 'asam(eta=0.01, p=inf)': {'eta': (0.01,), 'p': (math.inf,)}},
    ),
    # Several values are not part of what the method is called.
    (
      'looksam(every=2|5|10,alpha=.5,rho=1|2)',
      {
        'looksam(alpha=0.5)': {
          'alpha': (0.5,),
          'every': (2, 5, 10),
          'rho': (1, 2),
        }
      },
    ),
    # One method several times, and values that are no numbers.
    (
      "sam(second_order=True),sam(rho_schedule='linear'|cosine),"
      'sam(rho_min=None,ascent_steps=-1)',
      {
        'sam(second_order=True)': {'second_order': (True,)},
        'sam': {'rho_schedule': ('linear', 'cosine')},
        'sam(ascent_steps=-1, rho_min=None)': {
          'ascent_steps': (-1,),
          'rho_min': (None,),
        },
      },
    ),
  ],
)
def test_a_list_is_read(given, expected):
  entries = method_list.parse(given)
  assert {entry.label: entry.values for entry in entries} == expected


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ('', 'write NAME or NAME\\(FIELD=VALUE'),
    ('sam(', "'sam\\(' is no list"),
    ('sam sgd', 'is no list'),
    ('sma', "unknown method 'sma'; known: .*did you mean 'sam'"),
    ('sam(0.1)', "'sam\\(0.1\\)' has no place in a list"),
    ('sam(**a)', "'a' has no place"),
    ('sam(p=1+x)', "'1 \\+ x' has no place"),
    ('3', "'3' has no place"),
    ('sam.p', "'sam.p' has no place"),
    ('sgd(eta=1)', "method 'sgd' takes no eta; it takes"),
    ('sam(name=1)', 'takes no name'),
    ('sam,sgd,sam', 'sam is there twice'),
    ('sam(p=1|2),sam', 'sam is there twice'),
    ('sam(p=1|2|1)', 'sam has a value of p twice'),
    ('looksam(every=2|5,alpha=0|1)', 'several values of alpha and every'),
  ],
)
def test_what_is_no_list_is_one_line(given, message):
  with pytest.raises(ValueError, match=message) as error:
    method_list.parse(given)
  assert '\n' not in str(error.value)


def test_rho_is_tried_in_the_units_of_each_method():
  sgd, sam, asam, looksam = method_list.parse(
    'sgd,sam,asam(rho=3),looksam(every=2|5)'
  )
  factors = [0.7, 2.0]
  assert sgd.candidates(factors) == [{}]
  default = methods.defaults('sam')['rho']
  assert sam.candidates(factors) == [
    {'rho': pytest.approx(0.7 * default)},
    {'rho': 2 * default},
  ]
  assert asam.candidates(factors) == [{'rho': 3}]
  default = methods.defaults('looksam')['rho']
  assert looksam.candidates(factors) == [
    {'every': every, 'rho': pytest.approx(factor * default)}
    for every in (2, 5)
    for factor in factors
  ]
  # Rounding does not show in the names of runs.
  assert repr(looksam.candidates(factors)[0]['rho']) == '0.07'


def test_a_method_without_a_default_rho_needs_values(monkeypatch):
  [entry] = method_list.parse('sam')
  monkeypatch.setattr(methods, 'defaults', lambda name: {'rho': 0.0})
  with pytest.raises(ValueError, match='no default rho .* sam\\(rho=0.1\\|0.2'):
    entry.candidates([1.0])

"""What is wrong is said when a transform is made, with the call to write."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sam_jax
from sam_jax import methods, perturbations

W = jnp.array([3.0, 4.0])
L2 = sam_jax.l2(0.5)


def _loss(w):
  return w @ w / 2


def _make(perturbation=L2, **options):
  return functools.partial(
    sam_jax.value_and_grad, _loss, perturbation, **options
  )


def _raises(make, *words):
  with pytest.raises((TypeError, ValueError)) as error:
    make()
  text = str(error.value)
  assert '\n' not in text
  for word in words:
    assert word in text


_SCHEDULE = optax.linear_schedule(0.1, 0.0, 10)
_AUX = {'has_aux': True}


@pytest.mark.parametrize(
  'make, words',
  [
    (_make(0.05), ['perturbation is 0.05', 'sam_jax.l2(0.05)']),
    (_make(jnp.float32(0.5)), ['perturbation is', 'sam_jax.l2(0.5)']),
    (_make(None), ['perturbation is None', 'sam_jax.l2(0.05)']),
    (_make('l2'), ["perturbation is 'l2'", 'sam_jax.l2(0.05)']),
    (_make(optax.sgd(0.1)), ['an optimizer', 'sam_jax.l2(0.05)']),
    (_make(_SCHEDULE), ['(grads, params)', 'sam_jax.l2(0.05)']),
    (
      _make(sam_jax.l2),
      ['is the function l2 itself', 'call it', 'sam_jax.l2(0.05)'],
    ),
    (_make(sam_jax.asam), ['asam itself']),
    (_make(sam_jax.masked), ['masked itself']),
    (_make(perturbations.random), ['random itself']),
    (_make(perturbations.loss_equated), ['loss_equated itself']),
    (_make(perturbations.centralised), ['centralised itself']),
    (_make(methods.sam), ['is the function sam itself']),
    (_make(methods.sgd), ['(grads, params)']),
    (_make(methods.sam()), ['method.value_and_grad(fun)']),
    (_make(lambda grads: grads), ['(grads, params)']),
    (lambda: sam_jax.l2(_SCHEDULE), ['rho is', 'sam_jax.l2(schedule(step))']),
    (lambda: sam_jax.lp(_SCHEDULE, 1), ['rho is', 'schedule(step)']),
    (lambda: sam_jax.asam(_SCHEDULE), ['rho is', 'schedule(step)']),
    (lambda: sam_jax.l2('0.05'), ["rho is '0.05'"]),
    (lambda: sam_jax.l2(None), ['rho is None']),
    (lambda: sam_jax.l2(jnp.ones(2)), ['rho has the shape (2,)']),
    (lambda: sam_jax.l2(1j), ['rho is 1j']),
    (lambda: sam_jax.l2(0.05, axis_name=0), ['axis_name is 0']),
    (lambda: sam_jax.asam(0.05, axis_name=[1]), ['axis_name is [1]']),
    (lambda: sam_jax.masked(0.05, True), ['perturbation is 0.05']),
    (lambda: sam_jax.value_and_grad(3, L2), ['fun is 3']),
    (lambda: sam_jax.grad(None, L2), ['fun is None']),
    (_make(ascent_fun=3), ['ascent_fun is 3']),
    (_make(ascent_steps=2.0), ['ascent_steps is 2.0', 'whole number']),
    (_make(ascent_steps='2'), ["ascent_steps is '2'"]),
    (_make(ascent_reduce='mean'), ["ascent_reduce is 'mean'"]),
    (_make(combine=0.5), ['combine is 0.5']),
    (_make(differentiate=None), ['differentiate is None']),
    (_make(argnums=(0, 1)), ['argnums is (0, 1)', 'one tree']),
    (_make(argnums=1), ['argnums is 1']),
    (_make(holomorphic=True), ['holomorphic']),
    (
      _make(differentiate=functools.partial(jax.value_and_grad, argnums=(0,))),
      ['argnums is (0,)', 'one tree'],
    ),
    (_make(rho=0.05), ['rho']),
    (lambda: methods.sam().value_and_grad(3), ['fun is 3']),
    (
      lambda: methods.sam().value_and_grad(_loss, argnums=(0, 1)),
      ['argnums is (0, 1)'],
    ),
    (lambda: methods.sam().value_and_grad(_loss, reduce=1), ['reduce is 1']),
  ],
)
def test_it_is_refused_before_the_first_call(make, words):
  _raises(make, *words)


def _call(fun, *args, perturbation=L2, **options):
  return lambda: sam_jax.value_and_grad(fun, perturbation, **options)(*args)


def _both(fun, has_aux=False):
  """What `argnums=(0, 1)` would be where nobody sees the keyword."""
  return lambda *args: jax.value_and_grad(fun, (0, 1), has_aux)(*args)


@pytest.mark.parametrize(
  'call, words',
  [
    (
      _call(lambda w: (_loss(w), 0), W, ascent_fun=_loss, has_aux=True),
      ['ascent_fun returned', '(value, aux)'],
    ),
    (
      _call(_loss, W, ascent_fun=lambda w: (_loss(w), 0)),
      ['ascent_fun returned a tuple', 'has_aux is False'],
    ),
    (
      _call(lambda w, x: w @ x, W, W, differentiate=_both),
      ['no tree like the parameters', 'argnums'],
    ),
    (
      _call(_loss, W, perturbation=lambda g, p: jnp.ones(3)),
      ['perturbation', 'shape (2,)', 'shape (3,)'],
    ),
    (
      _call(_loss, W, perturbation=lambda g, p: {'w': g}),
      ['perturbation', "'w'"],
    ),
    (
      _call(_loss, W, perturbation=lambda g, p: methods.sam()),
      ['perturbation', 'Perturbed'],
    ),
    (_call(_loss, W, perturbation=lambda g, p: 1j * g), ['complex']),
    (
      _call(
        lambda p: _loss(p['w']), {'w': W}, perturbation=lambda g, p: g['w']
      ),
      ['perturbation', 'its only leaf'],
    ),
    (
      _call(_loss, W, ascent_reduce=lambda g: g[:1]),
      ['shape (2,)', 'shape (1,)'],
    ),
    (
      _call(_loss, W, perturbation=sam_jax.masked(L2, {'v': True})),
      ['the mask is no tree like the parameters', "'v'"],
    ),
    (
      _call(_loss, W, perturbation=sam_jax.masked(L2, 0.5)),
      ['the mask holds 0.5', 'bools'],
    ),
    (
      _call(
        lambda z: z**2,
        1j,
        differentiate=lambda fun, has_aux: jax.value_and_grad(
          fun, has_aux=has_aux, holomorphic=True
        ),
      ),
      ['the loss is complex'],
    ),
  ],
)
def test_it_is_refused_at_the_first_call(call, words):
  _raises(call, *words)


def test_keywords_of_a_loss_are_never_ours():
  names = (
    'fun params perturbation has_aux ascent_fun ascent_steps ascent_reduce '
    'second_order combine differentiate with_info args kwargs grads rho self'
  ).split()

  def fun(w, **numbers):
    return jnp.sum(w) * sum(numbers.values())

  numbers = {name: 1.0 for name in names}
  for steps in (1, 2):
    grad_fn = sam_jax.grad(fun, L2, ascent_steps=steps)
    np.testing.assert_array_equal(grad_fn(W, **numbers), len(names))
  _, grads, _ = methods.sam().value_and_grad(fun)(
    methods.sam().init(W), W, **numbers, state=1.0
  )
  np.testing.assert_array_equal(grads, len(names) + 1)


def test_options_of_jax_are_passed_on():
  fun = lambda p: p['n'] * _loss(p['w'])
  params = {'n': 2, 'w': W}
  grads = sam_jax.grad(fun, L2, allow_int=True)(params)
  np.testing.assert_allclose(grads['w'], 2 * np.array([3.3, 4.4]), rtol=1e-6)
  assert grads['n'].dtype == jax.dtypes.float0
  with pytest.raises(TypeError, match='allow_int'):
    sam_jax.grad(fun, L2)(params)

"""SAM and four of its variants beside a second implementation, in PyTorch.

It is not installed where the tests usually run: `pip install -e .[torch]`. Both
sides compute in float64; each method has a plain loop of PyTorch, written from
its formula.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax import methods

torch = pytest.importorskip('torch')

STEPS, RATE, MOMENTUM, RHO = 10, 0.1, 0.9, 0.3
X = np.random.default_rng(0).normal(size=(STEPS, 16, 6))
Y = np.random.default_rng(1).normal(size=(STEPS, 16, 3))
START = [
  np.random.default_rng(2).normal(size=(6, 8)),
  np.random.default_rng(3).normal(size=(8,)),
  np.random.default_rng(4).normal(size=(8, 3)),
]


def _torch_grads(params, step):
  """Returns the gradients of a network's loss on the batch of a step."""
  w1, b, w2 = leaves = [p.detach().requires_grad_() for p in params]
  outputs = torch.tanh(torch.from_numpy(X[step]) @ w1 + b) @ w2
  loss = ((outputs - torch.from_numpy(Y[step])) ** 2).mean()
  return list(torch.autograd.grad(loss, leaves))


def _norm(tensors):
  return torch.cat([t.flatten() for t in tensors]).norm()


def _dot(a, b):
  return sum((x * y).sum() for x, y in zip(a, b, strict=True))


def _add(a, b, factor=1.0):
  return [x + factor * y for x, y in zip(a, b, strict=True)]


def _sam(params, step, state, velocity):
  g = _torch_grads(params, step)
  return _torch_grads(_add(params, g, RHO / _norm(g)), step)


def _asam(params, step, state, velocity):
  g = _torch_grads(params, step)
  stretch = [p.abs() + 0.01 for p in params]
  length = _norm([t * x for t, x in zip(stretch, g, strict=True)])
  epsilon = [RHO * t**2 * x / length for t, x in zip(stretch, g, strict=True)]
  return _torch_grads(_add(params, epsilon), step)


def _gsam(params, step, state, velocity):
  g = _torch_grads(params, step)
  rho = 0.1 + (RHO - 0.1) * (1 - step / STEPS)  # as the learning rate falls
  g_p = _torch_grads(_add(params, g, rho / _norm(g)), step)
  across = _add(g, g_p, -_dot(g, g_p) / _norm(g_p) ** 2)
  return _add(g_p, across, -0.4)


def _looksam(params, step, state, velocity):
  g = _torch_grads(params, step)
  if step % 3 == 0:
    g_s = _torch_grads(_add(params, g, RHO / _norm(g)), step)
    state['g_v'] = _add(g_s, g, -_dot(g_s, g) / _norm(g) ** 2)
    return g_s
  return _add(g, state['g_v'], 0.7 * _norm(g) / _norm(state['g_v']))


def _msam(params, step, state, velocity):
  length = _norm(velocity)
  factor = -RHO / length if length > 0 else 0.0
  return _torch_grads(_add(params, velocity, factor), step)


def _torch_path(gradient):
  """Yields the parameters of gradient descent with momentum."""
  params = [torch.from_numpy(p.copy()) for p in START]
  velocity, state = [torch.zeros_like(p) for p in params], {}
  for step in range(STEPS):
    grads = gradient(params, step, state, velocity)
    velocity = [MOMENTUM * v + g for v, g in zip(velocity, grads, strict=True)]
    params = _add(params, velocity, -RATE * (1 - step / STEPS))
    yield [p.numpy() for p in params]


def _jax_path(method):
  """Yields the same of a method."""

  def loss(params, x, y):
    w1, b, w2 = params
    return jnp.mean((jnp.tanh(x @ w1 + b[None]) @ w2 - y) ** 2)

  grad_fn = jax.jit(
    method.value_and_grad(
      loss,
      learning_rate=lambda step: RATE * (1 - step / STEPS),
      peak_learning_rate=RATE,
      takes_momentum=True,
    )
  )
  params = [jnp.asarray(p) for p in START]
  velocity, state = [jnp.zeros_like(p) for p in params], method.init(params)
  for step in range(STEPS):
    _, grads, state = grad_fn(
      state, params, X[step], Y[step], momentum=velocity
    )
    velocity = [MOMENTUM * v + g for v, g in zip(velocity, grads, strict=True)]
    rate = RATE * (1 - step / STEPS)
    params = [p - rate * v for p, v in zip(params, velocity, strict=True)]
    yield params


@pytest.mark.parametrize(
  'name, fields, gradient',
  [
    ('sam', {}, _sam),
    ('asam', {}, _asam),
    ('gsam', {'alpha': 0.4, 'rho_min': 0.1}, _gsam),
    ('looksam', {'every': 3}, _looksam),
    ('msam', {}, _msam),
  ],
)
def test_ten_steps_are_those_of_a_second_implementation(name, fields, gradient):
  with jax.enable_x64(True):
    path = _jax_path(methods.create(name, rho=RHO, **fields))
    for params, expected in zip(path, _torch_path(gradient), strict=True):
      for p, e in zip(params, expected, strict=True):
        assert p.dtype == np.float64
        np.testing.assert_allclose(p, e, rtol=0, atol=1e-6)
  moved = max(np.abs(e - s).max() for e, s in zip(expected, START, strict=True))
  assert moved > 0.1

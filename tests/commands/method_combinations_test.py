"""Combinations that no paper has, against their definitions by hand.

From the command line, on one device; by hand in plain jax, with the batches and
the model of the run and nothing else of ours.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sam_jax.runs import build, initialization
from tests import tiny

STEPS, RATE = 6, 0.1
FIELDS = tiny.PLAIN | {
  'model.norm': 'batch',
  'num_steps': STEPS,
  'learning_rate': RATE,
  'schedule.name': 'constant',
  'optimizer.momentum': 0.0,
  'optimizer.nesterov': False,
  'weight_decay.rate': 0.0,
  'gradient_clipping': 0.0,
  'checkpoint.every_steps': STEPS,
  'eval_batch_size': 16,
}


def _length(values):
  return jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(values)))


def _add(params, factor, values):
  return jax.tree.map(lambda p, x: p + factor * x, params, values)


def _dot(a, b):
  return sum(jax.tree.leaves(jax.tree.map(lambda x, y: jnp.sum(x * y), a, b)))


def _only(start, values):
  """Returns a tree with zeros for all names that do not start so."""
  return jax.tree_util.tree_map_with_path(
    lambda path, x: x * any(key.key.startswith(start) for key in path), values
  )


def _late_adaptive_normalisation(step, grad, params, memory):
  """In the second half T = |w| + 0.01 stretches the layers of BatchNorm."""
  g = grad(params)
  if step < STEPS / 2:
    return g, memory
  stretch = jax.tree.map(lambda p: jnp.abs(p) + 0.01, params)
  stretched = _only('BatchNorm', jax.tree.map(jnp.multiply, stretch, g))
  along = jax.tree.map(jnp.multiply, stretch, stretched)
  return grad(_add(params, 0.3 / _length(stretched), along)), memory


def _gsam_of_a_quarter(step, grad, params, memory):
  """In every second step, the surrogate gap to a quarter of the examples."""
  if step % 2:
    return grad(params), memory
  g = grad(params, 4)
  d = grad(_add(params, 0.3 / _length(g), g))
  parallel = jax.tree.map(lambda x: _dot(g, d) / _dot(d, d) * x, d)
  return _add(d, -0.4, _add(g, -1, parallel)), memory


def _looksam_of_kernels(step, grad, params, g_v):
  """LookSAM whose g_v is made by moving the kernels alone."""
  g = grad(params)
  if step % 3 == 0:
    kernels = _only('kernel', g)
    g_s = grad(_add(params, 0.3 / _length(kernels), kernels))
    return g_s, _add(g_s, -_dot(g_s, g) / _dot(g, g), g)
  return _add(g, 0.7 * _length(g) / _length(g_v), g_v), g_v


COMBINATIONS = (
  (
    'sam --config.method.start=0.5 --config.method.metric=adaptive '
    '--config.method.mask=normalisation',
    _late_adaptive_normalisation,
  ),
  (
    'sam --config.method.every=2 --config.method.ascent_share=0.25 '
    '--config.method.combine=gsam(0.4)',
    _gsam_of_a_quarter,
  ),
  (
    'looksam --config.method.every=3 --config.method.mask=kernels',
    _looksam_of_kernels,
  ),
)


def _by_hand(formula):
  config = build.resolve(tiny.config(**FIELDS), 1)
  experiment = build.build(config)
  task, memory = experiment.task, None
  state = initialization.initial_state(experiment, seed=config.seed)
  batches = task.train_batches(
    experiment.dataset.train, config.batch_size, seed=config.seed
  )

  def loss(params, images, labels):
    variables = {'params': params, 'batch_stats': state.batch_stats}
    logits, _ = task.model.apply(
      variables, images, train=True, mutable=['batch_stats']
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.mean(losses)

  gradient, params = jax.jit(jax.grad(loss)), state.params
  for step in range(STEPS):
    batch = task.preprocess(next(batches))

    def grad(params, count=config.batch_size, batch=batch):
      return gradient(params, batch['image'][:count], batch['label'][:count])

    grads, memory = formula(step, grad, params, memory)
    params = _add(params, -RATE, grads)
  batches.close()
  return params


def _plain(step, grad, params, memory):
  return grad(params), memory


@pytest.mark.parametrize(
  ('typed', 'formula'),
  [
    pytest.param(*combination, marks=() if i == 0 else pytest.mark.slow)
    for i, combination in enumerate(COMBINATIONS)
  ],
  ids=[formula.__name__.strip('_') for _, formula in COMBINATIONS],
)
def test_a_combination_is_its_definition(
  command, tmp_path, monkeypatch, typed, formula
):
  tiny.use_devices(monkeypatch, 1)
  status, _, err = command(
    'train',
    f'--config={tiny.config_file(tmp_path, **FIELDS)}',
    f'--workdir={tmp_path}/run',
    '--config.method.rho=0.3',
    *f'--config.method.name={typed}'.split(' '),
  )
  assert status == 0, err
  found = tiny.state(tmp_path / 'run')['params']
  expected, plain = _by_hand(formula), _by_hand(_plain)
  difference = lambda a, b: max(
    np.abs(np.asarray(x) - y).max()
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )
  assert difference(found, expected) < 2e-5
  assert difference(found, plain) > 1e-3

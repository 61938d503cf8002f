"""Methods that choose steps, examples or parameters, where others went wrong.

What the table of all methods does not try: errors of other implementations, and
what is refused.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax import methods
from tests.methods import problems

KEY = jax.random.key(0)
W = jnp.array([1.0, -2.0, 0.5])


def _gradient(method, losses_fn, examples, params=W, step=0, state=None):
  """Returns the gradient of one group, and the state after it."""

  @jax.jit
  def run(examples, params, step, state):
    key = jax.random.fold_in(KEY, step)
    ctx = methods.Context(
      step, num_steps=10, key=key, step_key=key, learning_rate=0.1
    )
    problem = problems.create(losses_fn, examples)
    result = method.gradient(problem, state, params, ctx)
    return method.finish(state, result, ctx)

  state = method.init(params) if state is None else state
  return run(examples, params, jnp.int32(step), state)


def _linear(params, rows):
  return rows @ params


def test_esam_draws_numbers_and_no_whole_tensors():
  """Efficient_SAM perturbs a tensor, or does not.

  MSAM's ESAM moves what is not drawn by the perturbation of an earlier step.
  """
  method = methods.esam(rho=1.0, beta=0.5, descent_share=1.0)
  params = {'a': jnp.zeros(400), 'b': jnp.zeros(400)}
  loss = lambda params, x: (
    x * sum(jnp.sum(p + p**2 / 2) for p in params.values())
  )
  full, state, drawn = 1 / np.sqrt(800), None, []
  for step in range(2):
    grads, state = _gradient(method, loss, jnp.ones(2), params, step, state)
    for name in 'ab':
      epsilon = np.asarray(grads[name] - 1)
      drawn.append(np.abs(epsilon) > full / 2)
      assert 0.4 < drawn[-1].mean() < 0.6
      np.testing.assert_allclose(epsilon[drawn[-1]], 2 * full, rtol=1e-3)
      np.testing.assert_allclose(epsilon[~drawn[-1]], 0, atol=1e-6)
  assert len({mask.tobytes() for mask in drawn}) == 4  # each is another draw


def test_groups_of_ae_sam_decide_by_themselves_and_remember_the_mean():
  method = methods.ae_sam(rho=0.5, lambda_1=0.0, lambda_2=0.0)
  loss = lambda params, x: x * jnp.sum(params**2) / 2
  scales = (1.0, 3.0)
  state = methods.State(
    jnp.int32(1),
    {
      'direction': (),
      'mask': (),
      'when': {
        'when': {'mean': jnp.float32(20.0), 'variance': jnp.float32(4.0)}
      },
    },
  )
  ctx = methods.Context(jnp.int32(1), num_steps=10)
  results = [
    method.gradient(problems.create(loss, s * jnp.ones(1)), state, W, ctx)
    for s in scales
  ]
  assert [float(r.perturbed) for r in results] == [0, 1]
  square = float(W @ W)
  squares = np.array([square, 9 * square])
  mean = jax.tree.map(lambda *x: sum(x) / 2, *results)
  _, after = method.finish(state, mean, ctx)
  memory = after.memory['when']['when']
  np.testing.assert_allclose(memory['mean'], 18 + 0.1 * squares.mean())
  distances = 0.9 * (squares - 20)
  np.testing.assert_allclose(
    memory['variance'], 0.9 * 4 + 0.1 * (distances**2).mean(), rtol=1e-6
  )


@pytest.mark.parametrize('low, high, share', [(0, 0, 0.5), (-1, 1, 0.5)])
def test_the_cost_of_ae_sam_is_that_of_a_normal_norm(low, high, share):
  rng = np.random.default_rng(0)
  thresholds = rng.uniform(low, high, 100_000)
  assert (rng.normal(size=100_000) > thresholds).mean() == pytest.approx(
    share, abs=0.01
  )
  method = methods.ae_sam(lambda_1=low, lambda_2=high)
  assert method.gradient_evaluations == pytest.approx(1 + share)
  method = methods.ae_sam(lambda_1=0.5, lambda_2=2.5)
  thresholds = rng.uniform(0.5, 2.5, 100_000)
  measured = (rng.normal(size=100_000) > thresholds).mean()
  assert method.gradient_evaluations == pytest.approx(1 + measured, abs=0.01)


def test_a_fisher_mask_covers_biases_and_embeddings_by_one_norm():
  """FSAM4PLM perturbs these in full, and each group of parameters by itself."""
  params = {
    'dense': {'bias': jnp.zeros(2), 'kernel': jnp.zeros(3)},
    'embedding': jnp.zeros(5),
  }
  slopes = {
    'dense': {
      'bias': jnp.array([9.0, 1.0]),
      'kernel': jnp.array([7.0, 2.0, 2.0]),
    },
    'embedding': jnp.array([8.0, 1.0, 1.0, 1.0, 1.0]),
  }
  loss = lambda params, x: (
    x
    * sum(
      jax.tree.leaves(
        jax.tree.map(lambda p, s: jnp.sum(s * p + p**2 / 2), params, slopes)
      )
    )
  )
  method = methods.fisher_mask_sam(rho=1.0, keep_ratio=0.3, refresh=100)
  _, state = _gradient(method, loss, jnp.ones(2), params)
  grads, _ = _gradient(method, loss, jnp.ones(2), params, 1, state)
  epsilon = jax.tree.map(lambda g, s: np.asarray(g - s), grads, slopes)
  length = np.sqrt(81 + 64 + 49 + 4 * 2 + 5)
  np.testing.assert_allclose(
    epsilon['dense']['bias'], [9 / length, 0], atol=1e-6
  )
  np.testing.assert_allclose(
    epsilon['dense']['kernel'], [7 / length, 0, 0], atol=1e-6
  )
  np.testing.assert_allclose(
    epsilon['embedding'], [8 / length, 0, 0, 0, 0], atol=1e-6
  )


def test_a_mask_is_remade_only_when_it_is_due():
  method = methods.fisher_mask_sam(rho=1.0, keep_ratio=0.4, refresh=3)
  state, masks = None, []
  for step in range(5):
    row = jnp.roll(jnp.array([3.0, 2.0, 1.0]), step)[None]
    _, state = _gradient(method, _linear, row, W, step, state)
    masks.append(np.asarray(state.memory['mask']).tolist())
  first = [True, False, False]
  assert masks == [first] * 5  # step 3 has the row of step 0
  row = jnp.array([[0.0, 0.0, 9.0]])
  _, other = _gradient(method, _linear, row, W, 6, state)
  assert np.asarray(other.memory['mask']).tolist() == [False, False, True]
  _, same = _gradient(method, _linear, row, W, 7, state)
  assert np.asarray(same.memory['mask']).tolist() == first


@pytest.mark.parametrize(
  ('drop', 'grow'),
  [('gradient', 'weight'), ('weight', 'random'), ('random', 'gradient')],
)
def test_a_dynamic_mask_keeps_its_size(drop, grow):
  method = methods.ssam_d(
    sparsity=0.3, drop_rate=0.9, drop=drop, grow=grow, refresh=1
  )
  params = jnp.linspace(-1, 1, 20)
  loss = lambda p, x: x * jnp.sum(p**3)
  state, seen = method.init(params), set()
  for step in range(3):
    _, state = _gradient(method, loss, jnp.ones(1), params, step, state)
    mask = np.asarray(state.memory['mask'])
    assert mask.sum() == 14
    seen.add(tuple(mask))
  assert len(seen) > 1


@pytest.mark.parametrize(
  'name, fields, message',
  [
    ('late_sam', {'start': 1.5}, 'start is 1.5'),
    ('sam_k', {'every': 0}, 'every is 0'),
    ('ss_sam', {'probability': -0.1}, 'probability is -0.1'),
    ('ae_sam', {'decay': 1.0}, 'decay is 1.0'),
    ('ae_sam', {'lambda_1': float('inf')}, 'lambda_1 is inf'),
    ('quarter_sam', {'ascent_share': 0.0}, 'ascent_share is 0.0'),
    ('esam', {'beta': 0.0}, 'beta is 0.0'),
    ('esam', {'descent_share': 1.1}, 'descent_share is 1.1'),
    ('k_sam', {'loss_share': 2.0}, 'loss_share is 2.0'),
    ('ssam_f', {'sparsity': 1.0}, 'sparsity is 1.0'),
    ('ssam_f', {'samples': 0}, 'samples is 0'),
    ('ssam_f', {'refresh': 0}, 'refresh is 0'),
    ('ssam_d', {'drop_rate': 2.0}, 'drop_rate is 2.0'),
    ('ssam_d', {'drop': 'size'}, "unknown drop 'size'; known: gradient, "),
    ('fisher_mask_sam', {'keep_ratio': 0.0}, 'keep_ratio is 0.0'),
    ('sam', {'mask': 'bernoulli(2)'}, 'beta is 2'),
    ('sam', {'loss_share': 0.5, 'ascent_share': 0.5}, 'leave out one'),
    (
      'sam',
      {'when': 'gradient_norm', 'loss_share': 0.5},
      'when looks at the gradient of all examples, and loss_share is 0.5',
    ),
    ('looksam', {'mask': 'dynamic'}, 'no mask that remembers something'),
  ],
)
def test_values_out_of_range_are_refused(name, fields, message):
  with pytest.raises(ValueError, match=message):
    methods.create(name, **fields)


@pytest.mark.parametrize('name', ['sam', 'looksam'])
def test_a_mask_without_a_parameter_is_refused_before_the_first_step(name):
  method = methods.create(name, mask='matching("nothing")')
  with pytest.raises(ValueError, match="no parameter matches 'nothing'; .*: a"):
    method.init({'a': W})

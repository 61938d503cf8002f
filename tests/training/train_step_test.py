"""The step's algebra and metrics, against a program in numpy and float64.

The numbers of the official release are in train_step_official_test.py, that a
run does not depend on its devices in train_step_invariance_test.py.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax.training import train_step
from tests import steps

RATE, RHO = 0.5, 0.3
EXAMPLES, FEATURES, CLASSES = 8, 3, 4
START = {
  'kernel': np.random.default_rng(0).normal(size=(FEATURES, CLASSES)),
  'bias': np.random.default_rng(1).normal(size=CLASSES),
}


def _apply(variables, images, **kwargs):
  """Linear logits: a model whose gradient is easily written by hand."""
  del kwargs
  params = variables['params']
  return images @ params['kernel'] + params['bias'][None], {}


def _batches(count=3):
  rng = np.random.default_rng(2)
  return [
    {
      'image': rng.normal(size=(EXAMPLES, FEATURES)).astype(np.float32),
      'label': rng.integers(0, CLASSES, EXAMPLES).astype(np.int32),
    }
    for _ in range(count)
  ]


def _run(batches=None, start=START, **options):
  variables = {'params': jax.tree.map(np.float32, start)}
  defaults = {'learning_rate': RATE, 'rho': RHO}
  return steps.run(
    _apply, variables, batches or _batches(), **defaults | options
  )


# --- The same in numpy. A dict of arrays is flattened to [kernel, bias].


def _flatten(params):
  return np.concatenate([np.ravel(params[k]) for k in ('kernel', 'bias')])


def _loss_and_grad(flat, batch, smoothing=0.0):
  """Mean cross entropy, its error rate, and its gradient."""
  x = np.c_[np.float64(batch['image']), np.ones(len(batch['label']))]
  logits = x @ flat.reshape(-1, CLASSES)
  shifted = np.exp(logits - logits.max(-1, keepdims=True))
  probabilities = shifted / shifted.sum(-1, keepdims=True)
  targets = np.eye(CLASSES)[batch['label']]
  targets = (1 - smoothing) * targets + smoothing / CLASSES
  loss = -(targets * np.log(probabilities)).sum(-1).mean()
  error_rate = (logits.argmax(-1) != batch['label']).mean()
  grads = x.T @ (probabilities - targets) / len(x)
  return loss, error_rate, grads.ravel()


@dataclasses.dataclass
class _Numpy:
  """SAM and its optimizer in float64: the places of weight decay written out.

  `decay` is the coefficient for each parameter: zero where the mask says so.
  """

  decay: np.ndarray
  place: str
  rho: float
  m: int = EXAMPLES
  clipping: float = np.inf
  momentum: float = 0.9

  def group(self, w, batch):
    """Returns (gradient, metrics) of the examples that share a perturbation."""
    loss, error_rate, clean = _loss_and_grad(w, batch)
    ascent = clean + (self.decay * w if self.place == 'loss' else 0)
    epsilon = self.rho * ascent / np.linalg.norm(ascent)
    moved = w + epsilon
    perturbed_loss, perturbed_error_rate, grads = _loss_and_grad(moved, batch)
    if self.place in ('loss', 'descent'):
      grads = grads + self.decay * moved
    cosine = ascent @ grads / np.linalg.norm(ascent) / np.linalg.norm(grads)
    return grads, {
      'loss': loss,
      'error_rate': error_rate,
      'perturbed_loss': perturbed_loss,
      'perturbed_error_rate': perturbed_error_rate,
      'sharpness': perturbed_loss - loss,
      'cosine': cosine,
      'gradient_norm_ratio': np.linalg.norm(grads) / np.linalg.norm(ascent),
      'perturbation_norm': self.rho,
      'curvature': (grads - ascent) @ epsilon / (epsilon @ epsilon or 1.0),
    }

  def run(self, batches):
    """Returns parameters and metrics after each step."""
    w, velocity, walked = _flatten(START), 0.0, []
    for batch in batches:
      groups = [
        self.group(w, {k: v[i : i + self.m] for k, v in batch.items()})
        for i in range(0, EXAMPLES, self.m)
      ]
      grads = np.mean([g for g, _ in groups], axis=0)
      norm = np.linalg.norm(grads)
      clipped = grads * min(1.0, self.clipping / norm)
      update = clipped + (self.decay * w if self.place == 'gradient' else 0)
      velocity = self.momentum * velocity + update
      w = w - RATE * (update + self.momentum * velocity)
      metrics = {
        name: np.mean([m[name] for _, m in groups]) for name in groups[0][1]
      }
      metrics |= {
        'gradient_norm': norm,
        'clipped_gradient_norm': np.linalg.norm(clipped),
        'param_norm': np.linalg.norm(w),
        'learning_rate': RATE,
      }
      walked.append((w, metrics))
    return walked


def _coefficients(rate, exclude):
  bias = 0.0 if exclude else rate
  return _flatten(
    {'kernel': np.full((FEATURES, CLASSES), rate), 'bias': np.full(4, bias)}
  )


@pytest.mark.parametrize('exclude', ['', 'bias'])
@pytest.mark.parametrize('place', ['loss', 'descent', 'gradient'])
@pytest.mark.parametrize('method', ['sam', 'sgd'])
def test_weight_decay_is_where_its_place_says(method, place, exclude):
  walked = _run(
    method=method, m=4, weight_decay=0.2, place=place, exclude=exclude
  )
  rho = RHO if method == 'sam' else 0.0
  expected = _Numpy(_coefficients(0.2, exclude), place, rho, m=4)
  for (state, _), (w, _) in zip(walked, expected.run(_batches()), strict=True):
    # Three steps in float32 on parameters of order 1.
    np.testing.assert_allclose(_flatten(state.params), w, atol=3e-6)


@pytest.mark.parametrize('exclude', ['', 'bias'])
@pytest.mark.parametrize('method', ['sam', 'sgd'])
def test_decoupled_decay_is_that_of_adamw(method, exclude):
  options = {'b1': 0.8, 'b2': 0.95, 'eps': 1e-3}
  walked = _run(
    method=method,
    optimizer='adamw',
    optimizer_options=options,
    weight_decay=0.2,
    place='decoupled',
    exclude=exclude,
  )
  decay = _coefficients(0.2, exclude)
  rho = RHO if method == 'sam' else 0.0
  group = _Numpy(decay, 'decoupled', rho).group
  w, first, second = _flatten(START), 0.0, 0.0
  for t, (batch, (state, _)) in enumerate(
    zip(_batches(), walked, strict=True), start=1
  ):
    grads, _ = group(w, batch)
    first = 0.8 * first + 0.2 * grads
    second = 0.95 * second + 0.05 * grads**2
    scaled = first / (1 - 0.8**t)
    scaled = scaled / (np.sqrt(second / (1 - 0.95**t)) + 1e-3)
    w = w - RATE * (scaled + decay * w)
    np.testing.assert_allclose(_flatten(state.params), w, atol=1e-5)


@pytest.mark.parametrize('m, clipping', [(8, 0.0), (2, 0.1), (2, 1e3)])
def test_metrics_are_those_of_their_definitions(m, clipping):
  walked = _run(m=m, clipping=clipping, devices=2, b=2, loop='vmap')
  expected = _Numpy(
    _coefficients(0.0, ''), 'loss', RHO, m=m, clipping=clipping or np.inf
  ).run(_batches())
  for (_, metrics), (_, by_hand) in zip(walked, expected, strict=True):
    assert metrics == pytest.approx(by_hand, abs=5e-6)
    assert 0.3 < metrics['cosine'] < 1 - 1e-6
    assert metrics['sharpness'] > 1e-2


def test_metrics_of_a_zero_gradient_are_finite():
  # Every class as often as it is predicted.
  start = jax.tree.map(np.zeros_like, START)
  batch = {
    'image': np.zeros((EXAMPLES, FEATURES), np.float32),
    'label': np.arange(EXAMPLES, dtype=np.int32) % CLASSES,
  }
  ((_, metrics),) = _run([batch], start=start)
  assert metrics['gradient_norm'] == 0
  for name in ('cosine', 'gradient_norm_ratio', 'curvature', 'sharpness'):
    assert metrics[name] == 0


def test_logged_loss_has_smoothing_but_no_penalty():
  batches = _batches(1)
  ((_, metrics),) = _run(batches, label_smoothing=0.2, weight_decay=10.0)
  loss, _, _ = _loss_and_grad(_flatten(START), batches[0], smoothing=0.2)
  assert metrics['loss'] == pytest.approx(loss, abs=1e-6)


_EFFECTIVE = ('effective_perturbation_ratio', 'effective_perturbation_cosine')


def _left_in_bfloat16(w, epsilon):
  """Returns ratio and cosine of a perturbation after a cast."""

  def cast(x):
    return np.float64(np.asarray(jnp.bfloat16(np.float32(x))))

  seen = cast(w + epsilon) - cast(w)
  norm, seen_norm = np.linalg.norm(epsilon), np.linalg.norm(seen)
  return seen_norm / norm, seen @ epsilon / seen_norm / norm


@pytest.mark.parametrize('devices', [1, 2])
def test_what_rounding_leaves_of_each_groups_perturbation_is_averaged(devices):
  rho = 0.02  # on 16 weights of order 1: a spacing of bfloat16 each
  batch = _batches(1)[0]
  ((_, metrics),) = _run(
    [batch], m=4, devices=devices, rho=rho, mantissa_bits=7
  )
  w, left = _flatten(START), []
  for i in (0, 4):
    group = {k: v[i : i + 4] for k, v in batch.items()}
    _, _, ascent = _loss_and_grad(w, group)
    left.append(_left_in_bfloat16(w, rho * ascent / np.linalg.norm(ascent)))
  assert abs(left[0][1] - left[1][1]) > 1e-3  # so the mean is neither
  found = [metrics[name] for name in _EFFECTIVE]
  assert found == pytest.approx(np.mean(left, axis=0), abs=1e-5)
  assert found[1] < 0.98


def test_only_rounding_is_logged_and_logging_changes_no_step():
  exact, rounded = _run(mantissa_bits=23), _run(mantissa_bits=10)
  for a, b in zip(exact, rounded, strict=True):
    assert set(b.metrics) - set(a.metrics) == set(_EFFECTIVE)
    assert set(a.metrics) < set(b.metrics)
    # Another program, so another order of sums.
    assert steps.largest_difference(a.state, b.state) < 1e-6
  sgd = _run(method='sgd', mantissa_bits=7)[0].metrics
  assert not set(_EFFECTIVE) & set(sgd)


def test_sgd_omits_what_needs_a_perturbation():
  sgd, sam = _run(method='sgd')[0].metrics, _run()[0].metrics
  perturbed = {
    'perturbed_loss',
    'perturbed_error_rate',
    'sharpness',
    'cosine',
    'gradient_norm_ratio',
    'perturbation_norm',
    'curvature',
  }
  assert set(sam) - set(sgd) == perturbed
  assert set(sgd) < set(sam)


def test_diagnostics_are_of_the_two_gradients_whatever_is_made_of_them():
  first, second = (_run(second_order=order)[0] for order in (False, True))
  for name in ('cosine', 'gradient_norm_ratio', 'curvature'):
    assert second.metrics[name] == pytest.approx(first.metrics[name], rel=1e-3)
  norms = [run.metrics['gradient_norm'] for run in (first, second)]
  assert abs(norms[0] - norms[1]) > 0.01 * norms[0]


@pytest.mark.parametrize('devices', [1, 2])
def test_sam_with_rho_0_is_bit_for_bit_sgd(devices):
  options = {'m': 4, 'b': 2, 'devices': devices, 'weight_decay': 1e-2}
  sgd = _run(method='sgd', **options)
  sam = _run(rho=0.0, **options)
  for a, b in zip(sgd, sam, strict=True):
    jax.tree.map(np.testing.assert_array_equal, a.state, b.state)
    assert a.metrics == b.metrics


def test_gradients_are_averaged_before_they_are_clipped():
  """Scenic clips those of each device."""
  # The first group's gradient is a hundred times the second's, and opposite
  # to it: clipped one by one they would cancel, averaged they do not.
  start = jax.tree.map(np.zeros_like, START)
  image = np.zeros((EXAMPLES, FEATURES), np.float32)
  image[:4, 0], image[4:, 0] = 100, -1
  batch = {'image': image, 'label': np.zeros(EXAMPLES, np.int32)}
  plain = {'momentum': 0.0, 'nesterov': False}
  for devices in (1, 2):
    ((state, metrics),) = _run(
      [batch],
      start=start,
      m=4,
      method='sgd',
      clipping=0.1,
      optimizer_options=plain,
      devices=devices,
    )
    _, _, grads = _loss_and_grad(_flatten(start), batch)
    expected = -RATE * 0.1 * grads / np.linalg.norm(grads)
    np.testing.assert_allclose(_flatten(state.params), expected, atol=1e-6)
    assert metrics['gradient_norm'] == pytest.approx(
      np.linalg.norm(grads), rel=1e-5
    )
    assert metrics['clipped_gradient_norm'] == pytest.approx(0.1)


def test_the_gradient_of_the_perturbation_is_not_clipped():
  # Clipping to 1e-3 leaves epsilon as long as rho.
  clipped, free = _run(clipping=1e-3), _run()
  assert clipped[0].metrics['perturbed_loss'] == pytest.approx(
    free[0].metrics['perturbed_loss'], abs=1e-7
  )


def test_statistics_start_from_the_old_ones_in_both_passes():
  """The new ones are the clean pass's, averaged over microbatches.

  Keras updates them twice, Scenic keeps those of the perturbed pass, and
  bayesian-sam those of the first microbatch.
  """

  def apply_fn(variables, images, *, true_gradient, **kwargs):
    logits, _ = _apply(variables, images, **kwargs)
    old = variables['batch_stats']['mean']
    # Not of the logits themselves: no gradient changes their mean over classes.
    return logits + old, {'batch_stats': {'mean': old + jnp.mean(logits**2)}}

  batch = _batches(1)[0]
  variables = {
    'params': jax.tree.map(np.float32, START),
    'batch_stats': {'mean': np.float32(7.0)},
  }
  ((state, _),) = steps.run(apply_fn, variables, [batch], m=4, b=2, rho=RHO)
  logits = batch['image'] @ START['kernel'] + START['bias']
  expected = 7 + (logits**2).mean()
  assert state.batch_stats['mean'] == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_both_passes_of_a_microbatch_draw_the_same_and_others_differ():
  """The draw of each microbatch makes its loss, and goes out in statistics."""

  def apply_fn(variables, images, *, rngs, **kwargs):
    del kwargs
    draw = jax.random.uniform(rngs['dropout'])
    logits = draw * jnp.arange(CLASSES) + 0 * variables['params']['bias']
    logits = jnp.broadcast_to(logits, (len(images), CLASSES))
    return logits, {'batch_stats': {'mean': draw, 'square': draw**2}}

  variables = {
    'params': jax.tree.map(np.float32, START),
    'batch_stats': {'mean': np.float32(0), 'square': np.float32(0)},
  }

  def draws(**options):
    walked = steps.run(apply_fn, variables, _batches(2), rho=RHO, **options)
    for _, metrics in walked:
      assert metrics['perturbed_loss'] == pytest.approx(metrics['loss'])
    stats = [state.batch_stats for state, _ in walked]
    return [(float(s['mean']), float(s['square'])) for s in stats]

  whole, parts = draws(m=8, b=8), draws(m=4, b=2)
  for mean, square in whole:
    assert square - mean**2 == pytest.approx(0, abs=1e-6)  # one draw
  for mean, square in parts:
    assert square - mean**2 > 1e-3  # four that differ
  assert len({*whole, *parts, *draws(m=8, b=8, seed=1)}) == 6
  np.testing.assert_allclose(draws(m=4, b=2, devices=2), parts, rtol=1e-6)


@pytest.mark.slow
def test_augmentation_sees_positions_in_the_global_batch_and_a_new_key():
  """Images become their positions; the shift of all is drawn from the key."""

  def augment(key, images, positions):
    shift = jax.random.uniform(key)
    return images * 0 + jnp.float32(positions)[:, None] + shift

  def apply_fn(variables, images, **kwargs):
    del kwargs
    return images @ variables['params']['kernel'], {
      'batch_stats': {'mean': images.mean(), 'square': (images**2).mean()}
    }

  variables = {
    'params': {'kernel': np.ones((FEATURES, CLASSES), np.float32)},
    'batch_stats': {'mean': np.float32(0), 'square': np.float32(0)},
  }
  moments = [
    [
      (float(s.batch_stats['mean']), float(s.batch_stats['square']))
      for s, _ in steps.run(
        apply_fn, variables, _batches(2), augment=augment, rho=RHO, **options
      )
    ]
    for options in (
      {'m': 8, 'b': 8},
      {'m': 4, 'b': 2},
      {'m': 2, 'b': 2, 'devices': 4},
    )
  ]
  for (mean, square), (mean_after, _) in moments:
    assert 3.5 < mean < 4.5 and 3.5 < mean_after < 4.5
    assert mean != mean_after
    variance = np.var(np.arange(EXAMPLES))
    assert square - mean**2 == pytest.approx(variance, abs=1e-4)
  np.testing.assert_allclose(moments[1], moments[0], rtol=1e-6)
  np.testing.assert_allclose(moments[2], moments[0], rtol=1e-6)


def test_a_zero_gradient_moves_nothing_and_gives_no_nan():
  apply_fn = lambda variables, images, **_: (
    jnp.zeros((len(images), CLASSES)) * variables['params']['kernel'].sum(),
    {},
  )
  variables = {'params': jax.tree.map(np.float32, START)}
  walked = steps.run(apply_fn, variables, _batches(), rho=RHO, clipping=5.0)
  for state, metrics in walked:
    assert steps.largest_difference(state.params, variables['params']) == 0
    assert np.isfinite(list(metrics.values())).all()


@pytest.mark.parametrize('warmup_steps', [0, 2])
@pytest.mark.parametrize(
  'devices, parallel_name', [(1, 'shard_map'), (4, 'shard_map'), (4, 'pmap')]
)
def test_the_average_is_that_of_parameters_and_statistics(
  devices, parallel_name, warmup_steps
):
  variables = steps.Mlp().init(
    jax.random.key(0), jnp.ones((1, FEATURES)), train=False
  )
  start = {name: variables[name] for name in ('params', 'batch_stats')}
  walked = steps.run(
    steps.Mlp().apply,
    jax.device_get(variables),
    _batches(5),
    devices=devices,
    parallel_name=parallel_name,
    learning_rate=RATE,
    rho=RHO,
    ema_decay=0.25,
    ema_warmup_steps=warmup_steps,
  )
  expected = jax.device_get(start)
  for step, (state, _) in enumerate(walked, start=1):
    elapsed = step - warmup_steps
    decay = min(0.25, (1 + elapsed) / (10 + elapsed)) if elapsed >= 0 else 0
    new = {'params': state.params, 'batch_stats': state.batch_stats}
    expected = jax.tree.map(
      lambda a, n, d=decay: d * np.float64(a) + (1 - d) * n, expected, new
    )
    # Rounding of float32 values of order one.
    assert steps.largest_difference(state.ema, expected) < 1e-6
    if elapsed >= 0:
      for name in new:
        assert steps.largest_difference(state.ema[name], new[name]) > 1e-3


def test_an_average_changes_no_step_and_none_is_kept_unasked():
  averaged, plain = _run(ema_decay=0.9), _run()
  for (with_average, metrics), (without, same_metrics) in zip(
    averaged, plain, strict=True
  ):
    assert metrics == same_metrics
    assert without.ema == ()
    assert len(jax.tree.leaves(with_average.ema)) == len(START)
    jax.tree.map(
      np.testing.assert_array_equal, with_average.replace(ema=()), without
    )


def test_the_average_is_of_what_the_method_is_evaluated_with():
  """As with a method that trains at other parameters than it wants."""
  variables = {'params': jax.tree.map(np.float32, START)}
  stepper = steps.make(
    _apply, variables['params'], EXAMPLES, rho=RHO, ema_decay=0.5
  )
  shifted = dataclasses.replace(stepper.fns.method)
  object.__setattr__(
    shifted,
    'eval_params',
    lambda state, params: jax.tree.map(lambda p: p + 7, params),
  )
  fns = dataclasses.replace(stepper.fns, method=shifted)
  start = train_step.init_state(variables, fns)
  (state, _), *_ = steps.Stepper(fns, stepper.parallel).run(
    variables, _batches(1)
  )
  decay = 2 / 11  # after one update
  expected = jax.tree.map(
    lambda a, p: decay * (a + 7) + (1 - decay) * (p + 7),
    start.params,
    state.params,
  )
  average = train_step.eval_variables(state, fns)
  assert average is state.ema
  assert steps.largest_difference(average['params'], expected) < 1e-5
  without = dataclasses.replace(fns, ema_fn=None)
  newest = train_step.eval_variables(state, without)
  seven = jax.tree.map(lambda p: p + 7, state.params)
  assert steps.largest_difference(newest['params'], seven) == 0


def test_the_step_is_compiled_once_and_counts():
  traces = []

  def apply_fn(variables, images, **kwargs):
    traces.append(images)
    return _apply(variables, images, **kwargs)

  variables = {'params': jax.tree.map(np.float32, START)}
  stepper = steps.make(apply_fn, variables['params'], EXAMPLES, rho=RHO)
  walked = stepper.run(variables, _batches(4))
  assert [int(state.step) for state, _ in walked] == [1, 2, 3, 4]
  assert len(traces) == 2  # one for each pass


@pytest.mark.slow
def test_statistics_that_a_model_leaves_alone_stay_to_the_bit():
  # A mean over 3 or 6 equal numbers need not be that number.
  values = np.float32(np.random.default_rng(0).normal(size=1000))

  def apply_fn(variables, images, **kwargs):
    del kwargs
    logits = images.reshape(len(images), -1)[:, :5] @ variables['params']['w']
    return logits, {'batch_stats': variables['batch_stats']}

  variables = {'params': {'w': np.eye(5, dtype=np.float32)}}
  variables['batch_stats'] = {'mean': values}
  batch = {
    'image': np.ones((18, 4, 4, 1), np.float32),
    'label': np.arange(18, dtype=np.int32) % 5,
  }
  done = steps.run(apply_fn, variables, [batch] * 2, m=9, b=3, rho=0.05)
  np.testing.assert_array_equal(done[-1].state.batch_stats['mean'], values)


# --- Mixing


def test_images_are_mixed_within_their_microbatch():
  def mix(key, images, labels):
    del key
    one_hot = jax.nn.one_hot(labels, CLASSES)
    return images[::-1], 0.25 * one_hot + 0.75 * one_hot[::-1]

  def reverse(x):
    return x.reshape(-1, 2, *x.shape[1:])[:, ::-1].reshape(x.shape)

  def loss(flat, batch):
    """By hand: the images of each pair change places."""
    pair = {'image': reverse(batch['image']), 'label': batch['label']}
    partner = {'image': pair['image'], 'label': reverse(batch['label'])}
    own, other = (_loss_and_grad(flat, b) for b in (pair, partner))
    return [0.25 * a + 0.75 * b for a, b in zip(own, other, strict=True)]

  batch = _batches(1)[0]
  value, _, gradient = loss(_flatten(START), batch)
  options = {'method': 'sgd', 'optimizer_options': {'momentum': 0.0}}
  run = _run([batch], b=2, mix=mix, **options)
  np.testing.assert_allclose(run[0].metrics['loss'], value, rtol=1e-5)
  np.testing.assert_allclose(
    _flatten(run[0].state.params),
    _flatten(START) - RATE * gradient,
    atol=1e-6,
  )


@pytest.mark.slow
def test_one_key_per_step_mixes_all_microbatches():
  def mix(key, images, labels):
    return jnp.full_like(images, jax.random.uniform(key)), labels

  seen = {
    (m, b, devices): _run(m=m, b=b, devices=devices, mix=mix)
    for m, b, devices in ((8, 8, 1), (8, 2, 1), (8, 2, 4))
  }
  first, *others = seen.values()
  for run in others:
    for a, b in zip(run, first, strict=True):
      assert steps.largest_difference(a.state, b.state) < 1e-6
  losses = [s.metrics['loss'] for s in first]
  assert len(set(losses)) == len(losses)

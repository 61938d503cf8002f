import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from sam_jax import tasks
from sam_jax.datasets import windows
from sam_jax.runs import (
  build,
  config_files,
  evaluation,
  initialization,
  shared as shared_lib,
)
from sam_jax.training import layout, parallel
from tests import tiny, tiny_text

SIZE = 37  # of the vocabulary
LENGTH = 4
TABLE = np.random.default_rng(0).normal(size=(SIZE, SIZE)).astype(np.float32)


def _task(bytes_known=True):
  info = {
    'vocabulary_size': SIZE,
    'context_length': LENGTH,
    'tokenizer': 'bytes',
    'bytes_known': bytes_known,
  }
  return tasks.LanguageModelling(None, info)


def _split(count, bytes_per_token):
  tokens = np.random.default_rng(1).integers(SIZE, size=count, dtype=np.uint8)
  return windows.Windows(tokens, LENGTH, bytes_per_token)


def _bigrams(variables, tokens, train):
  """A model in one line."""
  assert not train
  return variables['table'][tokens]


@pytest.mark.parametrize('count', [23, 25, 3])
@pytest.mark.parametrize(
  ('num_devices', 'batch_sizes'), [(1, (1, 3)), (8, (8, 16))]
)
def test_an_evaluation_is_a_mean_over_tokens(count, num_devices, batch_sizes):
  split, task = _split(count, 2.5), _task()
  logits = TABLE[split.tokens[:-1]].astype(np.float64)
  targets = split.tokens[1:]
  log_probs = scipy.special.log_softmax(logits, axis=-1)
  loss = -log_probs[np.arange(count - 1), targets].mean()
  expected = {
    'loss': loss,
    'error_rate': (logits.argmax(-1) != targets).mean(),
    'bits_per_byte': loss * (count - 1) / (np.log(2) * 2.5 * (count - 1)),
    'perplexity': np.exp(loss),
  }
  runs_on = parallel.create(
    'shard_map',
    layout.create(num_devices, num_devices, 1, 1),
    jax.devices()[:num_devices],
  )
  step = functools.partial(
    evaluation.eval_step,
    apply_fn=_bigrams,
    task=task,
    collectives=runs_on.collectives,
  )
  compiled = runs_on.compile(step, num_replicated=1, num_donated=0)
  variables = runs_on.replicate({'table': TABLE})
  for size in batch_sizes:
    batches = task.eval_batches(split, size)
    sums = evaluation.run(compiled, variables, batches, runs_on.shard)
    found = evaluation.summarize(jax.device_get(sums), task)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
      np.testing.assert_allclose(found[name], value, rtol=2e-6, err_msg=name)


def test_predictions_have_the_same_means_and_a_row_for_each_window():
  split, task = _split(23, 1.0), _task()
  variables = {'table': TABLE}
  parts = [
    list(evaluation.predict(_bigrams, variables, task, batches))
    for batches in (task.eval_batches(split, 2), task.eval_batches(split, 100))
  ]
  first, second = (evaluation.summarize_predictions(p, task) for p in parts)
  assert first == pytest.approx(second, rel=1e-6)
  (whole,) = parts[1]
  columns = task.predictions(whole.outputs, whole.batch)
  assert list(columns) == ['tokens', 'loss', 'error_rate', 'bits_per_byte']
  assert columns['tokens'].tolist() == [4, 4, 4, 4, 4, 2]
  mean = np.average(columns['loss'], weights=columns['tokens'])
  np.testing.assert_allclose(mean, first['loss'], rtol=1e-6)


@pytest.mark.parametrize('size', [SIZE, 256])
def test_a_uniform_model_has_the_logarithm_of_the_vocabulary(size):
  task, split = _task(), _split(20, 1.0)
  batch = next(task.eval_batches(split, 5))
  metrics = task.example_metrics(jnp.zeros((5, LENGTH, size)), batch)
  np.testing.assert_allclose(metrics['loss'], np.log(size), rtol=1e-6)
  np.testing.assert_allclose(metrics['bits_per_byte'], np.log2(size), rtol=1e-6)


def test_what_fills_up_a_window_and_a_nan_count_as_they_should():
  task, split = _task(), _split(6, 1.0)  # windows of 4 and of 1
  batch = next(task.eval_batches(split, 2))
  logits = np.zeros((2, LENGTH, SIZE), np.float32)
  logits[1, 1:] = np.nan
  metrics = task.example_metrics(jnp.array(logits), batch)
  np.testing.assert_allclose(metrics['loss'], np.log(SIZE), rtol=1e-6)
  assert metrics['weight'].tolist() == [4, 1]
  broken = task.example_metrics(jnp.full_like(logits, np.nan), batch)
  assert np.isnan(broken['loss']).all()
  assert broken['error_rate'].tolist() == [1, 1]


def test_a_rate_is_in_tokens():
  assert _task().rate(2.5) == '10 tokens/s'


def test_bits_per_byte_are_the_score_where_bytes_are_known():
  assert _task().score.metric == 'bits_per_byte'
  assert _task(bytes_known=False).score.metric == 'loss'
  batch = next(_task(False).eval_batches(_split(20, None), 5))
  outputs = jnp.zeros((5, LENGTH, SIZE))
  metrics = _task(False).example_metrics(outputs, batch)
  assert set(metrics) == {'loss', 'error_rate', 'weight'}


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
  """Where the text is."""
  return tiny_text.write(tmp_path_factory.mktemp('text'))


@pytest.fixture
def shared(monkeypatch, kept=shared_lib.Shared()):  # noqa: B008
  """What all runs have in common, on one device."""
  tiny.use_devices(monkeypatch, 1)
  return kept


def _build(directory, shared, **fields):
  config = tiny.config(
    **tiny_text.FIELDS | {'data.directory': directory} | fields
  )
  config_files.load_plugins(config)
  return build.build(build.resolve(config, 1), shared)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'method.name': 'saf'}, 'training examples whose numbers are known'),
    ({'method.name': 'imb_sam'}, 'examples of classes'),
    ({'method.name': 'disam'}, 'examples of several domains'),
    ({'augmentation.name': 'basic'}, 'takes no augmentation'),
    ({'mixing.name': 'mixup'}, 'takes no mixing'),
    ({'label_smoothing': 0.1}, 'takes no label_smoothing'),
    ({'data.label_noise': 0.1}, 'no labels'),
    ({'model.context_length': 7}, 'context_length is 7, and data.*8'),
    ({'batch_size': 400}, 'only 112 training examples'),
  ],
  ids=str,
)
def test_what_makes_no_sense_is_refused_in_a_line(
  directory, shared, fields, message
):
  with pytest.raises(ValueError, match=message) as error:
    _build(directory, shared, **fields)
  assert '\n' not in str(error.value)


def _gradient(experiment, state, batch):
  """Returns what a step of SGD with rate 0.1 has subtracted, and metrics."""
  step = experiment.compile_train_step()
  kept = jax.device_get(state)
  new, metrics = step(
    experiment.parallel.replicate(state), experiment.parallel.shard(batch)
  )
  difference = jax.tree.map(
    lambda a, b: (a - np.asarray(b)) / 0.1, kept.params, new.params
  )
  return kept.params, difference, jax.device_get(metrics)


def _formula(name, apply, loss, params, tokens):
  """Returns the gradient of a batch by the formula of the method."""
  first = tokens[:2] if name == 'quarter' else tokens
  ascent = jax.grad(lambda p: loss(apply(p, first), first))(params)
  norm = jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(ascent)))
  moved = jax.tree.map(lambda p, g: p + 0.05 * g / norm, params, ascent)
  if name == 'functional':
    slope = jax.grad(loss)(apply(params, tokens), tokens)
    return jax.vjp(lambda p: apply(p, tokens), moved)[1](slope)[0]
  return jax.grad(lambda p: loss(apply(p, tokens), tokens))(moved)


@pytest.mark.parametrize(
  ('name', 'fields'),
  [
    ('functional', {'method.name': 'functional_sam'}),
    ('quarter', {'method.name': 'sam', 'method.ascent_share': 0.25}),
  ],
)
def test_methods_for_language_models_follow_their_formula(
  directory, shared, name, fields
):
  experiment = _build(directory, shared, **fields)
  state = initialization.initial_state(experiment, seed=0)
  dataset = experiment.dataset.train
  batch = next(experiment.task.train_batches(dataset, 8, seed=0))
  params, found, _ = _gradient(experiment, state, batch)

  def apply(params, tokens):
    return experiment.task.model.apply(
      {'params': params}, tokens[:, :-1], train=True
    )

  def loss(logits, tokens):
    log_probs = jax.nn.log_softmax(logits)
    targets = jax.nn.one_hot(tokens[:, 1:], logits.shape[-1])
    return -jnp.mean(jnp.sum(targets * log_probs, axis=-1))

  formula = jax.jit(functools.partial(_formula, name, apply, loss))
  expected = formula(params, batch['tokens'])
  # Differences of parameters of about 1, in float32, divided by 0.1.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=5e-6), found, expected
  )


@pytest.mark.parametrize(
  ('fields', 'share'),
  [
    ({'method.name': 'sam', 'method.mask': 'fisher(0.5)'}, 1.0),
    ({'method.name': 'sam', 'method.start': 0.875}, 0.0),
    ({'method.name': 'esam', 'method.descent_share': 0.5}, 1.0),
    ({'method.name': 'mesa', 'method.start': 0.0}, 0.0),
  ],
  ids=['fisher', 'late', 'chosen', 'mesa'],
)
def test_methods_that_look_at_examples_and_outputs_make_a_step(
  directory, shared, fields, share
):
  experiment = _build(directory, shared, **fields)
  state = initialization.initial_state(experiment, seed=0)
  dataset = experiment.dataset.train
  batch = next(experiment.task.train_batches(dataset, 8, seed=0))
  _, found, metrics = _gradient(experiment, state, batch)
  assert metrics.share == share
  assert metrics.step['loss'] == pytest.approx(np.log(256), rel=0.1)
  norms = [np.abs(leaf).sum() for leaf in jax.tree.leaves(found)]
  assert np.isfinite(norms).all() and max(norms) > 0

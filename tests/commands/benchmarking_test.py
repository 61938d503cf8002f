"""What the benchmarks share."""

import functools
import json
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax.datasets import text
from sam_jax.training import microbatches
from scripts import benchmarking
from scripts.benchmarking import flops, measured_step
from tests import tiny

_DENSE, _SECOND = 2 * 4 * 8 * 3, 2 * 4 * 3 * 2
_X, _W = jnp.ones((4, 8)), jnp.ones((8, 3))


def _count(function, *args):
  return flops.count(jax.jit(function).trace(*args).jaxpr)


def _square(w):
  return w @ jnp.ones((8, 8))


def _two_layers(w):
  return jnp.sum(jnp.tanh(_X @ w) @ jnp.ones((3, 2)))


@pytest.mark.parametrize(
  ('function', 'expected'),
  [
    (lambda w: _X @ w, _DENSE),
    (lambda w: jnp.einsum('bi,io->bo', _X, w), _DENSE),
    # The forward pass, and the gradient by the parameters alone.
    (lambda w: jax.value_and_grad(lambda w: jnp.sum(_X @ w))(w), 2 * _DENSE),
    # Of the second layer, the gradient by its input.
    (jax.value_and_grad(_two_layers), 2 * (_DENSE + _SECOND)),
    (
      lambda w: jax.lax.scan(lambda c, _: (_square(c), None), w.T, length=5)[0],
      5 * 2 * 3 * 8 * 8,
    ),
    (
      lambda w: jax.lax.fori_loop(0, 5, lambda _, c: _square(c), w.T),
      5 * 2 * 3 * 8 * 8,
    ),
    # The most expensive branch.
    (
      lambda w: jax.lax.cond(w[0, 0] > 0, _square, lambda c: c, w.T),
      2 * 3 * 8 * 8,
    ),
    # What is not kept is computed again.
    (
      jax.value_and_grad(jax.checkpoint(_two_layers)),
      3 * _DENSE + 2 * _SECOND,
    ),
    (lambda w: jax.vmap(lambda x: x @ w)(_X), _DENSE),
  ],
)
def test_matrix_products_are_counted(function, expected):
  assert _count(function, _W) == expected


def test_a_loop_of_unknown_length_is_refused():
  def loop(w):
    return jax.lax.while_loop(lambda c: c[0, 0] < 9, _square, w.T)

  with pytest.raises(ValueError, match='without a fixed length'):
    _count(loop, _W)


def test_what_several_devices_do_counts_for_all():
  mesh = jax.make_mesh((2,), ('group',))
  split = jax.sharding.PartitionSpec('group')
  each = jax.shard_map(
    lambda x: x @ _W, mesh=mesh, in_specs=split, out_specs=split
  )
  x = jax.device_put(_X, jax.sharding.NamedSharding(mesh, split))
  assert _count(each, x) == _DENSE


# Each of the gradients has as many operations as the forward pass, as in
# PyTorch, whatever the strides, and in the form in which it is fast in loops.
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize(('size', 'padding'), [(8, 'SAME'), (7, 'VALID')])
@pytest.mark.parametrize('in_loop', [False, True])
def test_convolutions_are_counted(stride, groups, size, padding, in_loop):
  x = jnp.ones((2, size, size, 4))
  w = jnp.ones((3, 3, 4 // groups, 6))

  def convolve(x, w):
    return jax.lax.conv_general_dilated(
      x,
      w,
      (stride, stride),
      padding,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      feature_group_count=groups,
    )

  def gradients(x, w):
    return jax.grad(lambda *a: jnp.sum(convolve(*a) ** 2), (0, 1))(x, w)

  def walk(x, w):
    pieces = jnp.stack([x, x])
    return microbatches.mean(lambda piece: gradients(piece, w), pieces, 'scan')

  forward = 2 * convolve(x, w).size * 9 * 4 // groups
  assert _count(convolve, x, w) == forward
  found = _count(walk if in_loop else gradients, x, w)
  assert found == 3 * forward * (2 if in_loop else 1)


# Its gradient by the kernel looks like one by the input of a smaller kernel.
def test_a_kernel_may_be_larger_than_what_it_sees():
  x, w = jnp.ones((2, 2, 2, 4)), jnp.ones((3, 3, 4, 6))

  def loss(x, w):
    y = jax.lax.conv_general_dilated(
      x, w, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    return jnp.sum(y**2)

  forward = 2 * (2 * 2 * 2 * 6) * 9 * 4
  assert _count(jax.value_and_grad(loss, (0, 1)), x, w) == 3 * forward


# One trace each, no compilation.
def test_a_step_has_the_operations_of_its_gradients(monkeypatch):
  tiny.use_devices(monkeypatch, 1)

  @functools.cache
  def operations(method, **sizes):
    setup = measured_step.Setup(
      model='cnn', image_size=8, batch_size=8, method=method, **sizes
    )
    experiment = setup.build()
    shapes = experiment.state_shapes(), experiment.batch_shapes()
    traced = experiment.compile_train_step().trace(*shapes)
    return flops.count(traced.jaxpr)

  gradient = operations('sgd')
  assert operations('sam') == 2 * gradient
  assert operations('sam', m=2) == 2 * gradient
  unrolled = operations('sam', m=4, microbatch_size=2, loop='unroll')
  assert unrolled == 2 * gradient
  assert operations('quarter_sam') == 1.25 * gradient
  assert operations('looksam(every=5)') == 2 * gradient


class _Program:
  """What is built and traced of a setup, at no cost."""

  def __init__(self, name):
    self.name = name

  def build(self):
    return self

  def state_shapes(self):
    return ()

  batch_shapes = state_shapes

  def compile_train_step(self):
    return self

  def trace(self, *shapes):
    del shapes
    return self.name


def test_all_are_compiled_side_by_side_before_any_is_timed(monkeypatch):
  both, done = threading.Barrier(2, timeout=60), []

  def compile_one(traced, seconds):
    del seconds
    both.wait()
    time.sleep(0.1)  # who does not wait for it finds nothing done
    done.append(traced)
    if traced == 'large':
      raise MemoryError('too large')
    return traced

  monkeypatch.setattr(measured_step, '_compile', compile_one)
  monkeypatch.setattr(measured_step, '_flops', lambda *_: 0)
  monkeypatch.setattr(
    measured_step, '_start', lambda *arguments: arguments[-1].result()
  )
  small, large = measured_step.compile_together(
    [_Program('small'), _Program('large')]
  )
  assert sorted(done) == ['large', 'small']
  assert small() == 'small'
  with pytest.raises(MemoryError, match='too large'):
    large()


def test_random_tokens_have_the_whole_vocabulary():
  setup = measured_step.Setup(
    'gpt-tiny', 64, context_length=32, vocabulary_size=512, optimizer='adamw'
  )
  name = setup.config().data.name
  data = text.create(name, context_length=32, vocabulary_size=512)
  assert len(data.train.whole()) >= 64
  assert len(np.unique(data.train.tokens)) > 256
  assert setup.config().data.name == name  # it is there once


def test_things_are_timed_in_turn():
  calls = []

  def taker(name):
    def take(count):
      calls.append((name, count))
      return len(calls)

    return take

  seconds = benchmarking.in_turn(
    {'a': taker('a'), 'b': taker('b')}, rounds=2, count=3
  )
  assert calls == [('a', 2), ('b', 2), *[('a', 3), ('b', 3)] * 2]
  assert {k: list(v) for k, v in seconds.items()} == {'a': [3, 5], 'b': [4, 6]}
  ratio = benchmarking.spread(seconds['b'] / seconds['a'])
  assert benchmarking.in_brackets(ratio) == '1.27 [1.20-1.33]'


def test_figures_say_how_to_repeat_them_and_name_no_file(tmp_path, monkeypatch):
  argv = ['/somewhere/scripts/benchmark_x.py', '--methods=sgd,sam(p=1)']
  argv += ['--json', '/a/b.json', '--torch_python=/c/python', '--rounds=2']
  monkeypatch.setattr('sys.argv', argv)
  path = tmp_path / 'out.json'
  benchmarking.write(str(path), benchmarking.describe())
  found = json.loads(path.read_text())
  assert found['command'] == (
    "python scripts/benchmark_x.py '--methods=sgd,sam(p=1)' --rounds=2"
  )
  assert found['versions']['jax'] == jax.__version__
  assert found['date'] == benchmarking.today()
  benchmarking.write(None, {})  # nothing is asked for


def test_the_random_images_have_what_every_method_asks_for():
  source = benchmarking.noise(count=6, size=4, channels=1, num_classes=3)
  assert source.train.images.shape == (6, 4, 4, 1)
  assert source.train.images.dtype == np.uint8
  assert set(source.train.labels) <= set(range(3))
  assert len(source.domains) > 1

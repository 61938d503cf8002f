"""Parameters that are split over the devices of `jax.shard_map`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import sam_jax
from sam_jax import perturbations

RHO = 0.5
SPECS = {
  'in': P(None, 'model'),
  'shift': P('model'),
  'out': P('model'),
  'b': P(),
}
MAKE = {
  'l2': lambda axis: sam_jax.l2(RHO, axis),
  'l1': lambda axis: sam_jax.lp(RHO, 1, axis),
  'l1.5': lambda axis: sam_jax.lp(RHO, 1.5, axis),
  'asam': lambda axis: sam_jax.asam(RHO, axis_name=axis),
  'layerwise': lambda axis: perturbations.layerwise(RHO, axis_name=axis),
  'samson': lambda axis: perturbations.samson(RHO, np.inf, axis),
  'unified': lambda axis: perturbations.unified(RHO, 0.5, axis),
  'unnormalised': lambda axis: perturbations.unnormalised(RHO, axis),
  'fisher': lambda axis: perturbations.fisher(RHO, axis_name=axis),
  'monge': lambda axis: perturbations.monge(RHO, axis),
  'loss_equated': lambda axis: perturbations.loss_equated(RHO, 1.0, axis),
  'zsharp': lambda axis: perturbations.zsharp(RHO, 0.6, axis),
  'masked': lambda axis: sam_jax.masked(
    sam_jax.l2(RHO, axis), {'in': True, 'shift': False, 'out': True, 'b': True}
  ),
}
TWO_STEPS, SECOND_ORDER = {'ascent_steps': 2}, {'second_order': True}
CELLS = [
  ('l2', TWO_STEPS),
  ('l2', SECOND_ORDER),
  ('l1', TWO_STEPS),
  ('l1.5', SECOND_ORDER),
  ('masked', TWO_STEPS),
  ('samson', SECOND_ORDER),
]


def _arguments():
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  params = {
    'in': normal(6, 8),
    'shift': normal(1, 8)[0],
    'out': normal(8, 3),
    'b': normal(1, 3),
  }
  return params, normal(5, 6)


def _loss(params, x, join=lambda products: products):
  shift = jnp.broadcast_to(
    params['shift'], (x.shape[0], *params['shift'].shape)
  )
  hidden = jnp.tanh(x @ params['in'] + shift)
  return jnp.mean((join(hidden @ params['out']) + params['b']) ** 2)


def _sliced_loss(params, x):
  return _loss(params, x, lambda products: jax.lax.psum(products, 'model'))


def _mapped(fn, out_specs, **options):
  mesh = jax.make_mesh((4,), ('model',), (jax.sharding.AxisType.Auto,))
  return jax.jit(
    jax.shard_map(
      fn, mesh=mesh, in_specs=(SPECS, P()), out_specs=out_specs, **options
    )
  )


def _every(loss, axis):
  """All cells in one program."""

  def run(params, x):
    return [
      sam_jax.value_and_grad(loss, MAKE[name](axis), **options)(params, x)
      for name, options in CELLS
    ]

  return run


def test_norms_are_those_of_all_slices():
  out_specs = [(P(), SPECS)] * len(CELLS)
  actual = _mapped(_every(_sliced_loss, 'model'), out_specs)(*_arguments())
  expected = jax.jit(_every(_loss, None))(*_arguments())
  for cell, *results in zip(CELLS, actual, expected, strict=True):
    jax.tree.map(
      lambda a, b, cell=cell: np.testing.assert_allclose(
        a, b, rtol=1e-4, atol=1e-5, err_msg=str(cell)
      ),
      *results,
    )


def test_each_epsilon_is_that_of_all_slices():
  """Of one gradient in one program, which is cheaper than the cells."""

  def every(loss, axis):
    def run(params, x):
      grads = jax.grad(loss)(params, x)
      return {name: make(axis)(grads, params) for name, make in MAKE.items()}

    return run

  actual = _mapped(every(_sliced_loss, 'model'), dict.fromkeys(MAKE, SPECS))
  actual = actual(*_arguments())
  expected = jax.jit(every(_loss, None))(*_arguments())
  for name in MAKE:
    jax.tree.map(
      lambda a, b, name=name: np.testing.assert_allclose(
        a, b, rtol=1e-4, atol=1e-5, err_msg=name
      ),
      actual[name],
      expected[name],
    )


@pytest.mark.parametrize('name', MAKE)
def test_without_an_axis_slices_are_refused(name):
  grad_fn = sam_jax.value_and_grad(_sliced_loss, MAKE[name](None))
  with pytest.raises(ValueError, match=r"axis_name=\('model',\)"):
    _mapped(grad_fn, (P(), SPECS)).trace(*_arguments())
  plain = sam_jax.value_and_grad(_sliced_loss, sam_jax.l2(0))
  _mapped(plain, (P(), SPECS)).trace(*_arguments())  # nothing to normalise


def test_a_mean_over_the_inputs_of_a_slice_is_refused():
  perturbation = perturbations.centralised(sam_jax.l2(RHO, 'model'))
  grad_fn = sam_jax.value_and_grad(_sliced_loss, perturbation)
  with pytest.raises(
    ValueError, match=r"split over the mesh axes \('model',\)"
  ):
    _mapped(grad_fn, (P(), SPECS)).trace(*_arguments())


def test_a_perturbation_of_ones_own_says_that_it_needs_no_other_axis():
  half = lambda grads, params: jax.tree.map(lambda g: g / 2, grads)
  grad_fn = sam_jax.value_and_grad(_sliced_loss, half)
  with pytest.raises(ValueError, match='axis_name'):
    _mapped(grad_fn, (P(), SPECS)).trace(*_arguments())
  half.axis_name = ('model',)
  actual = _mapped(grad_fn, (P(), SPECS))(*_arguments())
  expected = sam_jax.value_and_grad(_loss, half)(*_arguments())
  np.testing.assert_allclose(actual[1]['b'], expected[1]['b'], rtol=1e-5)


def test_an_axis_that_jax_does_not_track_is_refused():
  grad_fn = sam_jax.value_and_grad(_sliced_loss, sam_jax.l2(RHO, 'model'))
  with pytest.raises(ValueError, match='check_vma=True'):
    _mapped(grad_fn, (P(), SPECS), check_vma=False).trace(*_arguments())


def test_devices_draw_random_slices_of_their_own():
  perturbation = perturbations.random(RHO, jax.random.key(0), 'model')

  def epsilon(params, x):
    grad_fn = sam_jax.value_and_grad(_sliced_loss, perturbation, with_info=True)
    return grad_fn(params, x)[2].epsilon

  drawn = _mapped(epsilon, SPECS)(*_arguments())
  numbers = np.concatenate([np.ravel(x) for x in jax.tree.leaves(drawn)])
  assert np.linalg.norm(numbers) == pytest.approx(RHO, rel=1e-5)
  assert len(set(numbers.tolist())) == numbers.size


@pytest.mark.parametrize('is_folded', [False, True])
def test_devices_with_a_perturbation_each_draw_it_for_themselves(is_folded):
  """From one key, and from a key of each: then that one is taken as it is."""

  def epsilon(params, x):
    local = params['out']
    key = jax.random.key(0)
    if is_folded:
      key = jax.random.fold_in(key, jax.lax.axis_index('model'))
    return perturbations.random(RHO, key)(local, local)

  drawn = _mapped(epsilon, P('model'))(*_arguments())
  norms = np.linalg.norm(drawn.reshape(4, -1), axis=1)
  np.testing.assert_allclose(norms, RHO, rtol=1e-5)
  assert len(set(drawn.ravel().tolist())) == drawn.size
  if is_folded:
    key = jax.random.fold_in(jax.random.key(0), 2)
    alone = perturbations.random(RHO, key)(drawn[4:6], None)
    np.testing.assert_allclose(drawn[4:6], alone, rtol=1e-6)


def test_devices_that_gather_their_slices_share_the_norm_of_the_sum():
  """Other examples on each: the gradient is the sum over the devices."""
  params, _ = _arguments()
  w, x = params['out'], np.random.default_rng(1).normal(size=(4, 5, 8)) + 0.0
  x = x.astype(np.float32)

  def loss(w, x):
    return jnp.mean((x @ w) ** 2)

  def gathered(w, x):
    return loss(jax.lax.all_gather(w, 'model', tiled=True), x[0])

  mesh = jax.make_mesh((4,), ('model',), (jax.sharding.AxisType.Auto,))
  grad_fn = sam_jax.grad(gathered, sam_jax.l2(RHO, 'model'))
  actual = jax.jit(
    jax.shard_map(grad_fn, mesh=mesh, in_specs=P('model'), out_specs=P('model'))
  )(w, x)
  total = lambda w: sum(loss(w, part) for part in x)
  expected = sam_jax.grad(total, sam_jax.l2(RHO))(w)
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_arrays_that_are_cut_along_explicit_axes_get_the_same():
  """Where no `shard_map` is needed, and random numbers have to be cut too."""
  draw = perturbations.random(RHO, jax.random.key(0))
  made = {
    'asam': sam_jax.asam(RHO),
    'random': draw,
    'centralised': perturbations.centralised(perturbations.zsharp(RHO, 0.6)),
  }

  def run(params, x, loss):
    return {
      name: sam_jax.grad(loss, perturbation, second_order=name == 'asam')(
        params, x
      )
      for name, perturbation in made.items()
    }

  def gathered(params, x):
    whole = jax.tree.map(lambda p: jax.sharding.reshard(p, P()), params)
    return _loss(whole, x)

  run = jax.jit(run, static_argnames='loss')
  params, x = _arguments()
  expected = run(params, x, _loss)
  mesh = jax.make_mesh((4,), ('model',), (jax.sharding.AxisType.Explicit,))
  with jax.set_mesh(mesh):
    cut = {k: jax.device_put(p, SPECS[k]) for k, p in params.items()}
    actual = run(cut, x, gathered)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    actual,
    expected,
  )

"""The perturbations of the family: formulas, guarantees, reductions.

What concerns kinds of leaves is in `trees_test`, what concerns slices is in
`slices_test`. Each test compiles one program for all perturbations.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sam_jax
from sam_jax import perturbations
from tests.primitive import formulas

RHO = 0.5
LATER = ('unnormalised', 'unified', 'fisher', 'monge', 'loss_equated')
MAKE = {
  'asam of weights': functools.partial(
    perturbations.asam, stretched=perturbations.masks.weights
  ),
  'layerwise': perturbations.layerwise,
  'samson 2': perturbations.samson,
  'samson inf': functools.partial(perturbations.samson, p=np.inf),
  'unnormalised': perturbations.unnormalised,
  'unified': functools.partial(perturbations.unified, lam=0.25),
  'fisher': perturbations.fisher,
  'monge': perturbations.monge,
  'loss_equated': functools.partial(perturbations.loss_equated, rho_max=3.0),
  'zsharp': functools.partial(perturbations.zsharp, quantile=0.75),
  'centralised': lambda rho, **options: perturbations.centralised(
    sam_jax.l2(rho, **options)
  ),
}


def _tree(seed):
  rng = np.random.default_rng(seed)
  shapes = {'kernel': (3, 4), 'bias': (4,)}
  return {
    layer: {name: rng.normal(size=shape) for name, shape in shapes.items()}
    for layer in 'ab'
  }


def _float32(tree):
  return jax.tree.map(jnp.float32, tree)


def _flat(tree):
  leaves = [np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)]
  return np.concatenate(leaves)


def _close(actual, expected, **options):
  options = {'rtol': 5e-6, 'atol': 1e-7} | options
  np.testing.assert_allclose(_flat(actual), _flat(expected), **options)


@jax.jit
def _every(rho, grads, params):
  return {name: make(rho)(grads, params) for name, make in MAKE.items()}


@jax.jit
def _of_the_formulas(grads, params):
  return {
    name: perturbation(grads, params)
    for name, (perturbation, _) in formulas.FAMILY.items()
  }


def test_each_is_its_formula():
  grads, params = _tree(0), _tree(1)
  actual = _of_the_formulas(*map(_float32, (grads, params)))
  leaves = jax.tree.leaves(params)
  for name, (_, formula) in formulas.FAMILY.items():
    expected = formula(_flat(grads), _flat(params), leaves)
    _close(actual[name], expected.real, err_msg=name)


def test_each_finds_the_highest_point_of_its_ball():
  """No point of it climbs higher, to first order; among 1000 near it."""
  grads, params = _tree(0), _tree(1)
  found = _every(RHO, *map(_float32, (grads, params)))
  g, w = _flat(grads), _flat(params)
  norms = [np.full(x.size, np.linalg.norm(x)) for x in jax.tree.leaves(params)]
  is_bias = [np.full(x.size, x.ndim == 1) for x in jax.tree.leaves(params)]
  balls = {
    'layerwise': np.diag(np.concatenate(norms) ** -2.0),
    'asam of weights': np.diag(
      np.where(np.concatenate(is_bias), 1, (np.abs(w) + 0.01) ** -2.0)
    ),
    'fisher': np.diag(1 + g**2),
    'monge': np.eye(g.size) + np.outer(g, g),
  }
  points = np.random.default_rng(2).normal(size=(1000, g.size))
  for name, metric in balls.items():
    epsilon = _flat(found[name])
    assert epsilon @ metric @ epsilon == pytest.approx(RHO**2, rel=1e-5), name
    near = epsilon + 0.02 * points * np.abs(epsilon)
    length = np.sqrt(np.einsum('ni,ij,nj->n', near, metric, near))
    assert (RHO * near @ g / length).max() <= epsilon @ g * (1 + 1e-5), name


def test_a_zero_gradient_gives_zero_also_when_differentiated_and_mapped():
  grads, params = _float32(_tree(0)), _float32(_tree(1))
  params['a']['bias'] = jnp.zeros(4)  # as at the beginning
  both = jax.tree.map(lambda g: jnp.stack([jnp.zeros_like(g), g]), grads)

  @jax.jit
  @functools.partial(jax.vmap, in_axes=(0, None))
  def run(grads, params):
    def total(grads, params):
      made = {name: make(RHO)(grads, params) for name, make in MAKE.items()}
      return sum(jnp.sum(jnp.sin(e + 1)) for e in jax.tree.leaves(made)), made

    return jax.grad(total, argnums=(0, 1), has_aux=True)(grads, params)

  derivatives, mapped = run(both, params)
  assert np.isfinite(_flat(derivatives)).all()
  alone = _every(RHO, grads, params)
  for name, epsilon in mapped.items():
    assert not _flat(jax.tree.map(lambda e: e[0], epsilon)).any(), name
    _close(jax.tree.map(lambda e: e[1], epsilon), alone[name], err_msg=name)


def test_a_nan_stays_and_a_none_leaf_stays():
  grads, params = _float32(_tree(0)), _float32(_tree(1))
  grads['a']['kernel'] = grads['a']['kernel'].at[1, 2].set(jnp.nan)
  grads['b']['bias'] = None
  for name, epsilon in _every(RHO, grads, params).items():
    assert np.isnan(epsilon['a']['kernel'][1, 2]), name
    assert epsilon['b']['bias'] is None, name


def test_a_traced_radius_is_not_compiled_in_and_zero_is_none():
  grads, params = _float32(_tree(0)), _float32(_tree(1))
  count = _every._cache_size()
  for rho in (0.3, 0.7):
    for name, epsilon in _every(rho, grads, params).items():
      if name == 'loss_equated' or name == 'unnormalised':
        factor = rho / (
          np.vdot(_flat(grads), _flat(grads)) if name[0] == 'l' else 1
        )
        _close(epsilon, factor * _flat(grads), err_msg=name)
  for name, epsilon in _every(0.0, grads, params).items():
    assert not _flat(epsilon).any(), name
  assert _every._cache_size() <= count + 1
  for name, make in MAKE.items():
    assert make(0) is perturbations.none, name
    with pytest.raises(ValueError, match=r'is -1; it is .* number >= 0$'):
      make(-1)
    with pytest.raises(TypeError, match='axis_name is 3'):
      make(0.1, axis_name=3)


def test_the_degree_of_homogeneity_is_that_of_the_table():
  grads, params = _float32(_tree(0)), _float32(_tree(1))
  twice = jax.tree.map(lambda g: 2 * g, grads)
  once, doubled = _every(RHO, grads, params), _every(RHO, twice, params)
  for name in MAKE:
    ratio = np.linalg.norm(_flat(doubled[name])) / np.linalg.norm(
      _flat(once[name])
    )
    if name == 'unnormalised':
      assert ratio == pytest.approx(2, rel=1e-5)
    elif name in LATER:
      assert abs(ratio - 1) > 0.05, name
    else:
      _close(doubled[name], once[name], err_msg=name)


def test_the_reductions():
  grads, params = _float32(_tree(0)), _float32(_tree(1))
  small = jax.tree.map(lambda g: 1e-4 * g, grads)
  bias, w = grads['a']['bias'], params['a']['bias']
  length = jnp.linalg.norm(w)

  @jax.jit
  def pairs():
    p, l2 = perturbations, sam_jax.l2(RHO)
    plain, asam = l2(grads, params), sam_jax.asam(RHO, p=np.inf)
    scaled = jax.tree.map(lambda w: -7 * w, params)
    centred = p.centralise(grads)
    return {
      'unified 1': (p.unified(RHO, 1)(grads, params), plain),
      'unified 0': (
        p.unified(RHO, 0)(grads, params),
        p.unnormalised(RHO)(grads, params),
      ),
      'asam, nothing stretched': (
        sam_jax.asam(RHO, stretched=False)(grads, params),
        plain,
      ),
      'asam of p, all stretched': (
        sam_jax.asam(RHO, p=np.inf, stretched=True)(grads, params),
        asam(grads, params),
      ),
      'layerwise, nothing stretched': (
        p.layerwise(RHO, stretched=False)(grads, params),
        plain,
      ),
      'layerwise, one tensor': (
        p.layerwise(RHO)(bias, w),
        sam_jax.l2(RHO * length)(bias, w),
      ),
      'layerwise, eta': (
        p.layerwise(RHO, 0.5)(grads, params),
        p.layerwise(1.5 * RHO)(grads, params),
      ),
      'samson, scaled': (
        p.samson(RHO)(grads, scaled),
        p.samson(RHO)(grads, params),
      ),
      'samson, one number': (p.samson(RHO)(bias[0], w[0]), l2(bias[0], w)),
      'fisher 0': (p.fisher(RHO, 0)(grads, params), plain),
      'monge, flat': (p.monge(RHO)(small, params), plain),
      'loss_equated, at its limit': (
        p.loss_equated(100, RHO)(grads, params),
        plain,
      ),
      'zsharp 0': (p.zsharp(RHO, 0)(grads, params), plain),
      'centralise twice': (p.centralise(centred), centred),
      'centralised': (
        p.centralised(l2)(grads, params),
        l2(centred, params),
      ),
      'centralised, of vectors': (p.centralised(l2)(bias, w), l2(bias, w)),
    }

  for name, (actual, expected) in pairs().items():
    _close(actual, expected, atol=1e-6, err_msg=name)


def test_the_linearised_loss_rises_by_the_budget():
  grads, params = _float32(_tree(0)), _float32(_tree(1))
  epsilon = _every(RHO, grads, params)['loss_equated']
  assert _flat(grads) @ _flat(epsilon) == pytest.approx(RHO, rel=1e-5)


# --- Errors that were found in other implementations -------------------------


def test_zsharp_has_one_norm_and_no_tensor_of_a_length_of_its_own():
  """The authors' code moves every tensor by rho."""
  grads, params = _float32(_tree(0)), _float32(_tree(1))
  grads['b'] = jax.tree.map(lambda g: g / 100, grads['b'])
  epsilon = _every(RHO, grads, params)['zsharp']
  assert np.linalg.norm(_flat(epsilon)) == pytest.approx(RHO, rel=1e-5)
  for layer in 'ab':
    for name, g in grads[layer].items():
      kept = epsilon[layer][name] != 0
      assert kept.sum() == (g.size + 3) // 4  # a quarter, rounded up
      length = np.linalg.norm(epsilon[layer][name])
      assert length / np.linalg.norm(g[kept]) == pytest.approx(
        RHO / np.sqrt(sum(_kept_squares(epsilon, grads))), rel=1e-5
      )
  assert np.linalg.norm(_flat(epsilon['b'])) < 0.05 * RHO


def _kept_squares(epsilon, grads):
  kept = jax.tree.map(lambda e, g: np.sum(g[e != 0] ** 2), epsilon, grads)
  return jax.tree.leaves(kept)


def test_zsharp_keeps_tensors_without_deviation_and_ties_whole():
  grads = {
    'constant': jnp.full((7, 3), 0.1),
    'number': jnp.float32(2),
    'pair': jnp.array([0.3, -1.7]),
    'signs': jnp.array([0.1, -0.1, 0.1, -0.1, 0.1, -0.1, 0.1, -0.1]),
    'zero': jnp.zeros(4),
    'one': jnp.zeros(50).at[3].set(-2.0),
  }
  made = (perturbations.zsharp(RHO, 0.9), sam_jax.l2(RHO))
  run = jax.jit(lambda grads: [perturb(grads, None) for perturb in made])
  epsilon, expected = run(grads)
  _close(epsilon, expected)


def test_a_norm_is_that_of_all_tensors_and_not_of_each():
  """Per-tensor norms in place of it move every tensor equally far."""
  grads, params = _float32(_tree(0)), _float32(_tree(1))
  grads['b'] = jax.tree.map(lambda g: g / 1000, grads['b'])
  for name, epsilon in _every(RHO, grads, params).items():
    a, b = (
      np.linalg.norm(_flat(epsilon['a'])),
      np.linalg.norm(_flat(epsilon['b'])),
    )
    assert b < 0.01 * a, name


def test_asam_is_not_the_adaptive_perturbation_of_big_vision():
  """There epsilon is |w| rho g / |g|, whose length nothing says."""
  grads, params = _tree(0), _tree(1)
  epsilon = _flat(sam_jax.asam(RHO, 0)(*map(_float32, (grads, params))))
  g, w = _flat(grads), _flat(params)
  assert np.linalg.norm(epsilon / w) == pytest.approx(RHO, rel=1e-5)
  theirs = np.abs(w) * RHO * g / np.linalg.norm(g)
  assert np.linalg.norm(epsilon - theirs) > 0.1 * np.linalg.norm(theirs)
  cosine = epsilon @ theirs / np.linalg.norm(epsilon) / np.linalg.norm(theirs)
  assert cosine < 0.99  # so no rho makes them equal


def test_the_two_rules_of_asam_differ_in_what_they_stretch():
  grads, params = _tree(0), _tree(1)
  epsilon = _every(RHO, *map(_float32, (grads, params)))['asam of weights']
  flat = {}
  for layer in 'ab':
    for name, g in grads[layer].items():
      is_weight = name == 'kernel'
      stretch = np.abs(params[layer][name]) + 0.01 if is_weight else 1.0
      flat[layer, name] = (g, stretch)
  length = np.sqrt(sum(np.sum((t * g) ** 2) for g, t in flat.values()))
  for (layer, name), (g, stretch) in flat.items():
    np.testing.assert_allclose(
      epsilon[layer][name], RHO * stretch**2 * g / length, rtol=1e-5
    )


# --- Arguments ---------------------------------------------------------------


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: perturbations.unified(0.1, 1.5), r'^lam is 1.5; .* \[0, 1\]$'),
    (lambda: perturbations.layerwise(0.1, -1), '^eta is -1; .* number >= 0$'),
    (lambda: perturbations.fisher(0.1, np.nan), '^eta is nan; .* >= 0$'),
    (lambda: perturbations.samson(0.1, 3), '^p is 3; .* p = 2 or p = inf$'),
    (lambda: perturbations.zsharp(0.1, 1.0), r'^quantile is 1.0; .*\[0, 1\)$'),
    (lambda: perturbations.loss_equated(0.1, 0), '^rho_max is 0; .* > 0$'),
    (lambda: perturbations.loss_equated(-1), '^sigma is -1; it is a budget'),
  ],
)
def test_a_value_out_of_range_is_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def test_centralisation_takes_the_axes_that_are_given():
  kernel = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
  grads = {'kernel': jnp.float32(kernel), 'bias': jnp.ones(5, jnp.bfloat16)}
  centred = perturbations.centralise(grads)
  expected = kernel - kernel.mean((0, 1, 2), keepdims=True)
  np.testing.assert_allclose(centred['kernel'], expected, atol=1e-6)
  np.testing.assert_array_equal(centred['bias'], grads['bias'])
  assert centred['bias'].dtype == jnp.bfloat16
  by_row = perturbations.centralise(grads['kernel'], axes=(3,))
  expected = kernel - kernel.mean(3, keepdims=True)
  np.testing.assert_allclose(by_row, expected, atol=1e-6)

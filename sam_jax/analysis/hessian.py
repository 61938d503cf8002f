r"""The Hessian of a mean loss: eigenvalues, spectral density, trace.

Nothing but products of the Hessian with vectors is needed; each is a walk over
the whole data set. scipy's ARPACK has the eigenpairs, matfree the Lanczos
process.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg
from jax import flatten_util
from matfree import decomp

from sam_jax import types
from sam_jax.analysis import checks, objective as objective_lib, units

# ARPACK wants room for so many vectors; smaller matrices are formed.
_MIN_BASIS = 20
_TOLERANCES = {'float32': 1e-4, 'float64': 1e-8}


class Eigenpairs(NamedTuple):
  """Eigenvalues and eigenvectors, from the end of the spectrum inwards.

  Attributes:
    values: float64 `[k]`.
    vectors: k trees like the parameters, of length 1.
  """

  values: np.ndarray
  vectors: list[types.PyTree]


class Trace(NamedTuple):
  """An estimate of a trace.

  Attributes:
    mean: of the samples.
    standard_error: of the mean; NaN for a single sample.
    samples: float64 `[num_probes]`.
  """

  mean: float
  standard_error: float
  samples: np.ndarray


class Spectrum(NamedTuple):
  """A spectral density, as a mean of sums of point masses.

  Attributes:
    nodes: float64 `[num_probes, num_steps]`, where the masses are.
    weights: likewise; those of a probe add up to 1.
  """

  nodes: np.ndarray
  weights: np.ndarray

  def density(self, grid: np.ndarray, width: float) -> np.ndarray:
    """Returns the density, each mass smeared to a Gaussian.

    Args:
      grid: `[n]`, where it is wanted.
      width: standard deviation of the Gaussians, in units of the eigenvalues.

    Returns:
      `[n]`; integrates to 1.
    """
    distance = (grid[:, None, None] - self.nodes) / width
    bumps = np.exp(-0.5 * distance**2) / (width * np.sqrt(2 * np.pi))
    return np.mean(np.sum(self.weights * bumps, axis=-1), axis=-1)


def top_eigenpairs(
  objective: objective_lib.Objective,
  params: types.Params,
  k: int = 5,
  *,
  tolerance: float | None = None,
  seed: int = 0,
) -> Eigenpairs:
  """Returns the k algebraically largest eigenvalues, and their vectors.

  Args:
    objective: the loss.
    params: where its Hessian is taken.
    k: how many, at most the number of parameters.
    tolerance: of the vectors: |H v - lambda v| in units of lambda. The values
      are much better, by its square over the gap between them. None is 1e-4,
      and 1e-8 where the parameters are float64.
    seed: of the vector that the iteration starts from.

  Raises:
    ValueError: k is out of range, the parameters cannot be differentiated, a
      product is not finite, or the iteration does not converge.
  """
  return _eigenpairs(objective, params, k, 'LA', tolerance, seed)


def bottom_eigenpairs(
  objective: objective_lib.Objective,
  params: types.Params,
  k: int = 5,
  *,
  tolerance: float | None = None,
  seed: int = 0,
) -> Eigenpairs:
  """Returns the k algebraically smallest eigenvalues, the smallest first.

  At a saddle they are negative: the directions in which the loss falls.

  Args:
    objective: see `top_eigenpairs`, also for the other arguments and errors.
    params: see there.
    k: see there.
    tolerance: see there.
    seed: see there.
  """
  return _eigenpairs(objective, params, k, 'SA', tolerance, seed)


def _eigenpairs(
  objective: objective_lib.Objective,
  params: types.Params,
  k: int,
  which: str,
  tolerance: float | None,
  seed: int,
) -> Eigenpairs:
  """Returns the eigenpairs at an end of the spectrum, in ARPACK's words."""
  hessian = _operator(objective, params)
  checks.positive(k=k)
  if k > hessian.size:
    raise ValueError(
      f'k is {k}; it must be in [1, {hessian.size}], the number of parameters'
    )
  if hessian.size <= max(2 * k, _MIN_BASIS):
    values, vectors = np.linalg.eigh(_form(hessian))
  else:
    values, vectors = _arpack(hessian, k, which, tolerance, seed)
  order = np.argsort(values)
  order = order[:k] if which == 'SA' else order[::-1][:k]
  return Eigenpairs(
    values[order].astype(np.float64),
    [hessian.to_tree(vectors[:, i]) for i in order],
  )


def trace(
  objective: objective_lib.Objective,
  params: types.Params,
  num_probes: int = 100,
  *,
  seed: int = 0,
  unit: units.Unit = units.compute,
) -> Trace:
  """Estimates the trace by Hutchinson's method: the mean of z . H z.

  Args:
    objective: the loss.
    params: where its Hessian is taken.
    num_probes: vectors z of random signs; one product each.
    seed: of the signs.
    unit: see `units`; a piece is a probe.

  Raises:
    ValueError: num_probes < 1, or a product is not finite.
  """
  hessian = _operator(objective, params)
  checks.positive(num_probes=num_probes)

  def sample(index: int) -> units.Result:
    signs = _signs(hessian, seed, index)
    return {'sample': np.vdot(np.float64(signs), hessian.matvec(signs))}

  samples = np.array(
    [
      unit(f'trace-{i}', functools.partial(sample, i))['sample']
      for i in range(num_probes)
    ]
  )
  error = np.std(samples, ddof=1) if num_probes > 1 else np.nan
  return Trace(float(samples.mean()), float(error / num_probes**0.5), samples)


def spectrum(
  objective: objective_lib.Objective,
  params: types.Params,
  *,
  num_probes: int = 4,
  num_steps: int = 80,
  seed: int = 0,
  unit: units.Unit = units.compute,
) -> Spectrum:
  """Estimates the spectral density by stochastic Lanczos quadrature.

  Every probe is a random vector, whose Krylov space of `num_steps` dimensions
  gives the nodes and weights of a Gauss quadrature: as good at the ends of the
  spectrum as the eigenvalues that it holds there. The basis is
  reorthogonalised in full and takes `num_steps` vectors of memory.

  Args:
    objective: the loss.
    params: where its Hessian is taken.
    num_probes: random vectors of signs to average over.
    num_steps: products for each; no more than parameters are needed.
    seed: of the vectors.
    unit: see `units`; a piece is a probe.

  Raises:
    ValueError: a number is below 1, or a product is not finite.

  Source: Ghorbani et al. 2019, sections 2 and 3, whose code the paper used for
  its figure 3.
  """
  hessian = _operator(objective, params)
  checks.positive(num_probes=num_probes, num_steps=num_steps)
  num_steps = min(num_steps, hessian.size)

  def probe(index: int) -> units.Result:
    signs = _signs(hessian, seed, index)
    return _quadrature(hessian.matvec, signs, num_steps)

  found = [
    unit(f'spectrum-{i}', functools.partial(probe, i))
    for i in range(num_probes)
  ]
  return Spectrum(*(np.stack([f[n] for f in found]) for n in Spectrum._fields))


class _Hessian(NamedTuple):
  """The Hessian as an operator on vectors of the host.

  Attributes:
    matvec: its product with a vector `[size]`.
    size: number of parameters.
    dtype: of the vectors: float64 where parameters are, else float32.
    to_tree: from a vector to a tree like the parameters.
  """

  matvec: Callable[[np.ndarray], np.ndarray]
  size: int
  dtype: np.dtype
  to_tree: Callable[[np.ndarray], types.PyTree]


def _operator(
  objective: objective_lib.Objective, params: types.Params
) -> _Hessian:
  """Returns the Hessian at some parameters."""
  checks.params(params)
  flat, unravel = flatten_util.ravel_pytree(params)
  placed = objective.place(params)

  def matvec(vector: np.ndarray) -> np.ndarray:
    tangent = to_tree(vector.ravel())
    result, _ = flatten_util.ravel_pytree(objective.hvp(placed, tangent))
    product = np.asarray(result)
    if not np.isfinite(product).all():
      raise ValueError(
        'a product with the Hessian is not finite: the loss, or the '
        'parameters, are NaN, infinite or too large'
      )
    return product

  def to_tree(vector: np.ndarray) -> types.PyTree:
    return unravel(jnp.asarray(vector, flat.dtype))

  dtype = np.dtype(jnp.promote_types(flat.dtype, jnp.float32))
  return _Hessian(matvec, flat.size, dtype, to_tree)


def _form(hessian: _Hessian) -> np.ndarray:
  """Returns the whole matrix, float64."""
  rows = np.eye(hessian.size, dtype=hessian.dtype)
  matrix = np.stack([hessian.matvec(row) for row in rows])
  return (matrix.astype(np.float64) + matrix.T) / 2


def _arpack(
  hessian: _Hessian, k: int, which: str, tolerance: float | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns eigenvalues `[k]` and vectors `[size, k]`, in any order."""
  size, dtype = hessian.size, hessian.dtype
  operator = scipy.sparse.linalg.LinearOperator(
    (size, size), matvec=hessian.matvec, dtype=dtype
  )
  start = np.random.default_rng(seed).standard_normal(size, np.float32)
  if tolerance is None:
    tolerance = _TOLERANCES[dtype.name]
  try:
    return scipy.sparse.linalg.eigsh(
      operator, k, which=which, v0=start.astype(dtype), tol=tolerance
    )
  except scipy.sparse.linalg.ArpackNoConvergence as error:
    raise ValueError(
      f'{len(error.eigenvalues)} of {k} eigenvalues converged; ask for fewer, '
      f'or with a larger tolerance: {dtype} does not tell apart what is small '
      'beside the largest'
    ) from error


def _quadrature(
  matvec: Callable[[np.ndarray], np.ndarray], start: np.ndarray, num_steps: int
) -> units.Result:
  """Returns nodes and weights of a Gauss quadrature, both `[num_steps]`."""
  decompose = decomp.tridiag_sym(num_steps, reortho='full', custom_vjp=False)
  # Run as Python, not in a loop of XLA: a product walks batches of the host.
  with jax.disable_jit():
    found = decompose(_eager(matvec), start).J_small
  matrix = np.asarray(found, np.float64)
  # The space may be exhausted before: what follows a zero is not connected.
  coupled = np.nan_to_num(np.diagonal(matrix, 1)) > 0
  length = num_steps if coupled.all() else int(np.argmin(coupled)) + 1
  values, vectors = np.linalg.eigh(matrix[:length, :length])
  rest = (0, num_steps - length)
  return {
    'nodes': np.pad(values, rest),
    'weights': np.pad(vectors[0] ** 2, rest),
  }


def _eager(
  matvec: Callable[[np.ndarray], np.ndarray],
) -> Callable[[jax.Array], jax.Array]:
  """Returns a product that matfree may trace and that runs as Python.

  matfree looks at the program of a product even where it runs step by step: to
  JAX this is one operation, that what it applies to is a square matrix is all
  that is known.
  """
  primitive = jax.extend.core.Primitive('hessian_vector_product')

  @primitive.def_impl
  def run(vector: jax.Array) -> jax.Array:
    if not np.isfinite(vector).all():
      return vector  # 0 / 0: the space is exhausted
    with jax.disable_jit(False):
      return jnp.asarray(matvec(np.asarray(vector)))

  primitive.def_abstract_eval(lambda vector: vector)
  return primitive.bind


def _signs(hessian: _Hessian, seed: int, index: int) -> np.ndarray:
  """Returns a probe: `[size]`, each -1 or 1."""
  rng = np.random.default_rng([seed, index])
  return rng.integers(0, 2, hessian.size).astype(hessian.dtype) * 2 - 1

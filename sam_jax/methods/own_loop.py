"""A method in a training loop of one's own."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from sam_jax import arguments, leaves, tree, types
from sam_jax.methods import interface


def _identity(values: types.PyTree) -> types.PyTree:
  """Averages over nothing."""
  return values


def value_and_grad(
  method: interface.Halves,
  fun: Callable[..., Any],
  *,
  has_aux: bool = False,
  ascent_fun: Callable[..., Any] | None = None,
  differentiate: Callable[..., Callable[..., Any]] = jax.value_and_grad,
  reduce: Callable[[types.PyTree], types.PyTree] = _identity,
  key: jax.Array | None = None,
  num_steps: int | None = None,
  learning_rate: Any = None,
  peak_learning_rate: types.Scalar | None = None,
  takes_momentum: bool = False,
  **options: Any,
) -> Callable[..., Any]:
  """Returns a function for the value and the method's gradient of fun.

  The examples of a call are one group: they share one perturbation.

  Args:
    method: whose gradient is wanted.
    fun: scalar function, differentiated with respect to its first argument, a
      tree of parameters; the method may call it several times, with the same
      further arguments.
    has_aux: whether `fun` returns `(value, aux)`.
    ascent_fun: what the perturbation is made from, as in
      `sam_jax.value_and_grad`.
    differentiate: what differentiates, as in `sam_jax.value_and_grad`.
    reduce: average over the devices of a tree, for example `lambda t:
      jax.lax.pmean(t, 'data')`: each device has a group of its own, and what
      the method remembers is made of the averages. Value and aux stay those of
      the device.
    key: PRNG key of the run, for methods that draw; the step is folded in, and
      inside `jax.shard_map` the place of the device. Under `pmap` fold in
      `jax.lax.axis_index` yourself.
    num_steps: length of the run, for a radius that follows it.
    learning_rate: of the optimizer, a number or a schedule of the step, for a
      radius that is tied to it.
    peak_learning_rate: the largest one of the run; not needed if
      `learning_rate` is a number.
    takes_momentum: whether the function that is returned takes the momentum of
      the optimizer, by the keyword `momentum`; see `methods.momentum_of`.
    **options: given to `differentiate` too, such as `allow_int=True`.

  Returns:
    A function `(state, params, *args, **kwargs) -> (out, grads, state)`; `out`
    is the value, or `(value, aux)` with `has_aux`; the first state is
    `method.init(params)`.

  Raises:
    TypeError: an argument is of another kind than it should be.
    ValueError: `argnums` names more than the first argument; or, when called,
      the method needs a key, a length, or a learning rate that was not given;
      the message names it.

  Example:
    >>> import jax.numpy as jnp, sam_jax
    >>> method = sam_jax.methods.looksam(rho=0.5, every=2)
    >>> params = jnp.array([3.0, 4.0])
    >>> state = method.init(params)
    >>> grad_fn = method.value_and_grad(lambda w: w @ w / 2)
    >>> value, grads, state = grad_fn(state, params)
    >>> print(value, grads, state.step)
    12.5 [3.3 4.4] 1
  """
  arguments.function('fun', fun)
  arguments.function('reduce', reduce)
  arguments.differentiation(differentiate, options)
  descend = differentiate(_with_aux(fun, has_aux), has_aux=True, **options)
  ascend = descend
  if ascent_fun is not None:
    arguments.function('ascent_fun', ascent_fun)
    ascent_fun = arguments.returned('ascent_fun', ascent_fun, has_aux)
    ascent_fun = _with_aux(ascent_fun, has_aux)
    ascend = differentiate(ascent_fun, has_aux=True, **options)
  is_schedule = callable(learning_rate)
  if not is_schedule and peak_learning_rate is None:
    peak_learning_rate = learning_rate

  @functools.wraps(fun)
  def method_value_and_grad(
    state: interface.State, params: types.Params, /, *args: Any, **kwargs: Any
  ) -> tuple[Any, types.Grads, interface.State]:
    step_key = None if key is None else jax.random.fold_in(key, state.step)
    ctx = interface.Context(
      state.step,
      num_steps=num_steps,
      key=_of_device(step_key, params),
      step_key=step_key,
      learning_rate=learning_rate(state.step) if is_schedule else learning_rate,
      peak_learning_rate=peak_learning_rate,
      momentum=kwargs.pop('momentum') if takes_momentum else None,
      params=params,
    )
    found: list[types.Grads] = []

    def without_float0(
      differentiated: Callable[..., Any],
    ) -> types.GradientFn:
      def gradient_fn(params: types.Params) -> tuple[Any, types.Grads]:
        out, grads = arguments.pair(differentiated(params, *args, **kwargs))
        found.append(leaves.float0_of(grads))
        return out, leaves.differentiable(grads)

      return gradient_fn

    problem = interface.Problem(
      without_float0(descend),
      without_float0(ascend),
      lambda params, out, info: {},
    )
    result = method.gradient(problem, state, params, ctx)
    averages = reduce((result.grads, result.stats, result.perturbed))
    grads, stats, perturbed = averages
    result = result._replace(grads=grads, stats=stats, perturbed=perturbed)
    out = result.out if has_aux else result.out[0]
    grads, state = method.finish(state, result, ctx)
    return out, leaves.with_float0(grads, found[0]), state

  # Whoever asks for the signature, as `jax.jit` does for static_argnames, is to
  # see state and params, not the arguments of fun.
  del method_value_and_grad.__wrapped__
  return method_value_and_grad


def _with_aux(fun: Callable[..., Any], has_aux: bool) -> Callable[..., Any]:
  """Returns a function that has an aux, the empty one if it has none."""
  if has_aux:
    return fun

  @functools.wraps(fun)
  def with_aux(*args: Any, **kwargs: Any) -> tuple[Any, None]:
    return fun(*args, **kwargs), None

  return with_aux


def _of_device(key: jax.Array | None, params: types.Params) -> jax.Array | None:
  """Returns a key with the place of the device on what params vary over."""
  if key is None:
    return None
  axes = frozenset().union(*map(tree.varying, jax.tree.leaves(params)))
  for axis in sorted(axes - tree.varying(key)):
    key = jax.random.fold_in(key, jax.lax.axis_index(axis))
  return key

"""Methods: what a config names, from plain SGD to SAM.

A method obtains the gradient of one group, the examples that share one
perturbation; what is done with the gradient is the optimizer's business. SGD
is a method too, so that a comparison differs in the method alone.

A method may keep state. It is replicated, and part of the checkpoint. A device
may walk several groups in turn, so a method cannot average over all groups
itself: the train step does, over the states that the groups return. State must
therefore be a tree of floating-point arrays and linear in gradients; a norm
that it needs is taken of what has been averaged, in the next step.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from sam_jax import lookup, perturbations, sam, types


class Context(NamedTuple):
  """What a method may depend on besides its state and the batch.

  Attributes:
    step: number of updates made so far, an int32 scalar.
    key: PRNG key of this step and group, the same wherever the group runs.
    learning_rate: of this step, a scalar.
  """

  step: jax.Array
  key: jax.Array
  learning_rate: jax.Array


class Method(NamedTuple):
  """How a gradient is obtained.

  Attributes:
    init: `params -> state`.
    value_and_grad: `(fun, ctx, *, ascent_fun, differentiate) -> (state,
      params, *args) -> ((value, aux), grads, state, info)`. `fun(params,
      *args)` returns `(value, aux)`; `ascent_fun` is what a perturbation is
      made from; `differentiate(fun, has_aux=True)` differentiates either,
      averaged over the whole group; `info` is a `sam.SamInfo`, or None if
      nothing was perturbed.
    eval_params: `(state, params) -> params` to evaluate with.
    gradient_evaluations: examples put through a forward and backward pass in
      a step, in units of the batch size: what a step costs.
  """

  init: Callable[[types.Params], types.PyTree]
  value_and_grad: Callable[..., Callable[..., Any]]
  eval_params: Callable[[types.PyTree, types.Params], types.Params]
  gradient_evaluations: float


def _stateless(
  value_and_grad: Callable[..., Any], gradient_evaluations: float
) -> Method:
  """Returns a method without state from a maker of (out, grads, info)."""

  def with_state(*args: Any, **kwargs: Any) -> Callable[..., Any]:
    grad_fn = value_and_grad(*args, **kwargs)

    def run(state: types.PyTree, *fun_args: Any) -> tuple[Any, ...]:
      out, grads, info = grad_fn(*fun_args)
      return out, grads, state, info

    return run

  return Method(
    init=lambda params: (),
    value_and_grad=with_state,
    eval_params=lambda state, params: params,
    gradient_evaluations=gradient_evaluations,
  )


def sgd() -> Method:
  """Returns the plain gradient, with whatever optimizer follows."""

  def value_and_grad(
    fun: Callable[..., Any],
    ctx: Context,
    *,
    ascent_fun: Callable[..., Any],
    differentiate: Callable[..., Any],
  ) -> Callable[..., Any]:
    del ctx, ascent_fun
    grad_fn = differentiate(fun, has_aux=True)
    return lambda *args: (*grad_fn(*args), None)

  return _stateless(value_and_grad, gradient_evaluations=1)


def sam_method(
  rho: float,
  p: float = 2.0,
  ascent_steps: int = 1,
  second_order: bool = False,
) -> Method:
  """Returns Sharpness-Aware Minimization (Foret et al. 2020, algorithm 1).

  Args:
    rho: radius of the perturbation; 0 is SGD.
    p: norm in which the radius is measured, in [1, inf].
    ascent_steps: gradient ascent steps that make the perturbation (appendix
      C.6); the paper's results use 1.
    second_order: whether to differentiate through the perturbation (appendix
      C.4); the paper's results do not.

  Returns:
    A stateless method.

  Raises:
    ValueError: rho, p or ascent_steps is out of range, or there are several
      ascent steps with second_order.
  """
  perturbation = perturbations.lp(rho, p)
  options = {'ascent_steps': ascent_steps, 'second_order': second_order}
  sam.check_options(**options)
  is_plain = perturbation is perturbations.none
  # A Hessian-vector product differentiates a gradient: about two of them.
  cost = 1 if is_plain else ascent_steps + 1 + 2 * second_order
  return _perturbed(lambda ctx: perturbation, cost, **options)


def _perturbed(
  perturbation_fn: Callable[[Context], types.Perturbation],
  gradient_evaluations: float,
  **options: Any,
) -> Method:
  """Returns a stateless method from what perturbs a group in a step."""

  def value_and_grad(
    fun: Callable[..., Any],
    ctx: Context,
    *,
    ascent_fun: Callable[..., Any],
    differentiate: Callable[..., Any],
  ) -> Callable[..., Any]:
    return sam.value_and_grad(
      fun,
      perturbation_fn(ctx),
      has_aux=True,
      ascent_fun=ascent_fun,
      differentiate=differentiate,
      with_info=True,
      **options,
    )

  return _stateless(value_and_grad, gradient_evaluations)


def random_method(rho: float) -> Method:
  """Returns SAM along a random direction, a control (appendix C.5).

  Each group draws one of its own in every step.

  Args:
    rho: radius of the perturbation; 0 is SGD.

  Returns:
    A stateless method. Its first pass serves value, metrics and BatchNorm.

  Raises:
    ValueError: rho is out of range.
  """
  perturbations.l2(rho)  # refuses what is no radius
  return _perturbed(
    lambda ctx: perturbations.random(rho, ctx.key),
    gradient_evaluations=1 if rho == 0 else 2,
  )


_METHODS: dict[str, Callable[..., Method]] = {
  'random': random_method,
  'sam': sam_method,
  'sgd': sgd,
}


def register(
  name: str,
) -> Callable[[Callable[..., Method]], Callable[..., Method]]:
  """Makes a method known to `create`; a decorator.

  Args:
    name: what a config calls it.

  Returns:
    A decorator for a factory `(**options) -> Method`.

  Raises:
    ValueError: the name is taken.
  """

  def add(factory: Callable[..., Method]) -> Callable[..., Method]:
    if name in _METHODS:
      raise ValueError(f'method {name!r} is registered already; choose another')
    _METHODS[name] = factory
    return factory

  return add


def _options(factory: Callable[..., Method]) -> set[str]:
  """Returns the names of a factory's arguments."""
  return set(inspect.signature(factory).parameters)


def create(name: str, **options: Any) -> Method:
  """Returns the method of that name.

  Args:
    name: 'sgd', 'sam', or a registered name.
    **options: all that a config sets; a method takes those it has, so that one
      config serves every method.

  Raises:
    ValueError: the name is unknown, no method has such an option, or an option
      is out of range.
  """
  lookup.check('method', name, sorted(_METHODS))
  factory = _METHODS[name]
  accepted = _options(factory)
  all_options = {o for f in _METHODS.values() for o in _options(f)}
  for option in options:
    lookup.check('option of a method', option, sorted(all_options))
  return factory(**{k: v for k, v in options.items() if k in accepted})

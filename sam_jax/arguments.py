"""Arguments that a transform refuses when it is made, not when it first runs.

Each error says what was given and the call to write instead.
"""

import functools
import inspect
import math
import numbers
import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

_WRITE = 'a perturbation is a function, for example sam_jax.l2(0.05)'


def function(name: str, value: Any) -> None:
  """Refuses what cannot be called.

  Raises:
    TypeError: the message has the name.
  """
  if not callable(value):
    raise TypeError(f'{name} is {_shown(value)}; it must be a function')


def perturbation(value: Any) -> None:
  """Refuses what is no perturbation.

  Raises:
    TypeError: the message has the call to write.
  """
  if hasattr(value, 'value_and_grad'):
    raise TypeError(
      'the perturbation is a method; write method.value_and_grad(fun), which '
      'returns a function of state and params'
    )
  if hasattr(value, 'init') and hasattr(value, 'update'):
    raise TypeError(
      f'the perturbation is an optimizer; {_WRITE}, and the optimizer updates '
      'with the gradient that is returned'
    )
  if not callable(value):
    number = f': write sam_jax.l2({value})' if _is_number(value) else ''
    raise TypeError(f'the perturbation is {_shown(value)}; {_WRITE}{number}')
  try:
    signature = inspect.signature(value)
  except (TypeError, ValueError):  # it does not say what it takes
    return
  if next(iter(signature.parameters), None) in (
    'rho',
    'sigma',
    'perturbation',
  ):
    raise TypeError(
      f'the perturbation is {_shown(value)} itself, which makes one; call it, '
      'as in sam_jax.l2(0.05)'
    )
  try:
    signature.bind(None, None)
  except TypeError as error:
    raise TypeError(
      f'the perturbation is {_shown(value)}, which does not take (grads, '
      f'params); {_WRITE}'
    ) from error


def radius(rho: Any, name: str = 'rho', kind: str = 'a radius') -> None:
  """Refuses what is no radius.

  Args:
    rho: the radius, or another number that a schedule may change.
    name: of it in messages.
    kind: what it is, in messages.

  Raises:
    TypeError: rho is no number at all; a schedule has to be called.
    ValueError: it is negative, infinite or NaN, or no scalar.
  """
  if callable(rho):
    raise TypeError(
      f'{name} is {_shown(rho)}; give a number: a schedule is called with the '
      'step, sam_jax.l2(schedule(step)), which compiles nothing anew'
    )
  advice = f'it is {kind}: give a number >= 0'
  if isinstance(rho, numbers.Real):
    if not 0 <= float(rho) < math.inf:
      raise ValueError(f'{name} is {rho}; {advice}')
  elif not _is_number(rho):
    raise TypeError(f'{name} is {_shown(rho)}; {advice}')
  elif jnp.shape(rho):
    raise ValueError(f'{name} has the shape {jnp.shape(rho)}; {advice}')


def ascent(ascent_steps: Any, second_order: Any) -> None:
  """Refuses steps that are no number of them, or do not go together.

  Raises:
    TypeError: `ascent_steps` is no whole number.
    ValueError: it is below 1, or above with `second_order`.
  """
  try:
    steps = operator.index(ascent_steps)
  except TypeError as error:
    raise TypeError(
      f'ascent_steps is {_shown(ascent_steps)}; it must be a whole number, '
      'known before tracing'
    ) from error
  if steps < 1:
    raise ValueError(f'ascent_steps is {steps}; it must be at least 1')
  if second_order and steps > 1:
    raise ValueError(
      f'second_order is for one ascent step, and ascent_steps is {steps}'
    )


def differentiation(differentiate: Any, options: Mapping[str, Any]) -> None:
  """Refuses what differentiates something else than the first argument.

  Args:
    differentiate: as in `sam_jax.value_and_grad`.
    options: given to it by keyword.

  Raises:
    TypeError: `differentiate` is no function.
    ValueError: it has argnums or holomorphic, which SAM cannot have.
  """
  function('differentiate', differentiate)
  options = {**getattr(differentiate, 'keywords', {}), **options}
  argnums = options.get('argnums', 0)
  # What is neither a number nor a tuple names parts of the first argument, as
  # DiffState of nnx does.
  if isinstance(argnums, tuple | list) or (
    isinstance(argnums, numbers.Integral) and argnums != 0
  ):
    raise ValueError(
      f'argnums is {argnums!r}; the gradient is that of the first argument: '
      'put what is to be perturbed into one tree, value_and_grad(lambda both, '
      '*args: fun(*both, *args), ...)((a, b), *args)'
    )
  if options.get('holomorphic'):
    raise ValueError(
      'holomorphic is True, and the loss of a sharpness is real; leave it out: '
      'complex parameters of a real loss need nothing'
    )


def axes(axis_name: Any) -> tuple[str, ...]:
  """Returns the names of mesh axes as a tuple.

  Raises:
    TypeError: it is no name and no tuple of names.
  """
  names = (axis_name,) if isinstance(axis_name, str) else axis_name
  names = () if names is None else names
  if isinstance(names, list | tuple) and all(isinstance(n, str) for n in names):
    return tuple(names)
  raise TypeError(
    f'axis_name is {_shown(axis_name)}; it must be the name of a mesh axis, or '
    'a tuple of names'
  )


def returned(
  name: str, fun: Callable[..., Any], has_aux: bool
) -> Callable[..., Any]:
  """Returns a function that says so if it does not return what it should."""

  @functools.wraps(fun)
  def checked(*args: Any, **kwargs: Any) -> Any:
    out = fun(*args, **kwargs)
    is_pair = isinstance(out, tuple) and len(out) == 2
    if has_aux and not is_pair:
      raise TypeError(
        f'has_aux is True, and {name} returned {_shown(out)}; like fun it has '
        'to return (value, aux)'
      )
    if not has_aux and isinstance(out, tuple):
      raise TypeError(
        f'has_aux is False, and {name} returned a tuple; like fun it has to '
        'return the value alone'
      )
    return out

  return checked


def pair(result: Any) -> tuple[Any, Any]:
  """Returns what a differentiated function returned: value and gradient.

  Raises:
    TypeError: it returned something else, or a complex value.
  """
  if not (isinstance(result, tuple) and len(result) == 2):
    count = len(result) if isinstance(result, tuple) else 1
    raise TypeError(
      'what differentiate makes has to return (out, grads), out being value '
      f'or (value, aux), and it returned {count} values; wrap it, and let aux '
      "have what is more, such as the next state of flax's DynamicScale"
    )
  if jnp.iscomplexobj(jax.tree.leaves(result[0])[0]):
    raise TypeError('the loss is complex; a sharpness is that of a real one')
  return result


def _is_number(value: Any) -> bool:
  """Whether a value is a real number, or an array of such, perhaps traced."""
  if isinstance(value, numbers.Real):
    return True
  dtype = getattr(value, 'dtype', None)
  kinds = (jnp.floating, jnp.integer)
  return dtype is not None and any(jnp.issubdtype(dtype, k) for k in kinds)


def _shown(value: Any) -> str:
  """Returns a value as it is said in a message, in one short line."""
  if name := getattr(value, '__name__', None):
    return f'the function {name}'
  text = ' '.join(repr(value).split())
  return text if len(text) <= 60 else f'a {type(value).__name__}'

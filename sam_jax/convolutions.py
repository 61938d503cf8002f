"""Convolutions in the one form that XLA is fast at everywhere on a CPU.

XLA brings convolutions on a CPU into the order of axes for which there is fast
code, but only where a program is straight: within a branch or a loop it leaves
them as they are, and the gradients of a convolution, whose axes are in another
order, take 20 to 100 times longer there. Here the axes are brought into that
order before XLA sees them.
"""

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.extend import core

_Tree = TypeVar('_Tree')


def canonical(fun: Callable[..., _Tree]) -> Callable[..., _Tree]:
  """Returns a function that computes the same, fast in branches and loops too.

  Args:
    fun: of trees of arrays, to be called within a function that is traced, such
      as a branch of `jax.lax.cond`. On other devices than a CPU it is returned
      as it is.
  """
  if jax.default_backend() != 'cpu':
    return fun

  def canonical_fun(*args: Any) -> _Tree:
    jaxpr, shapes = jax.make_jaxpr(fun, return_shape=True)(*args)
    if not _has_convolution(jaxpr.jaxpr):
      return fun(*args)
    outs = _evaluate(jaxpr.jaxpr, jaxpr.consts, jax.tree.leaves(args))
    return jax.tree.unflatten(jax.tree.structure(shapes), outs)

  return canonical_fun


def _has_convolution(jaxpr: core.Jaxpr) -> bool:
  """Whether there is one that `_evaluate` would find."""
  for eqn in jaxpr.eqns:
    if eqn.primitive is jax.lax.conv_general_dilated_p:
      return True
    if _is_call(eqn) and _has_convolution(eqn.params['jaxpr'].jaxpr):
      return True
    if _is_remat(eqn) and _has_convolution(eqn.params['jaxpr']):
      return True
  return False


def _is_call(eqn: Any) -> bool:
  """Whether an equation is the call of a function that `jax.jit` made."""
  return eqn.primitive.name in ('jit', 'pjit')


def _is_remat(eqn: Any) -> bool:
  """Whether an equation is what `jax.checkpoint` made of a function."""
  return eqn.primitive.name in ('checkpoint', 'remat2')


def _evaluate(
  jaxpr: core.Jaxpr, consts: list[Any], args: list[Any]
) -> list[Any]:
  """Computes what a program does, with its convolutions in that order."""
  values: dict[Any, Any] = {}

  def read(atom: Any) -> Any:
    return atom.val if isinstance(atom, core.Literal) else values[atom]

  values.update(zip(jaxpr.constvars, consts, strict=True))
  values.update(zip(jaxpr.invars, args, strict=True))
  for eqn in jaxpr.eqns:
    given = list(map(read, eqn.invars))
    name = str(eqn.source_info.name_stack)  # for traces
    with jax.named_scope(name) if name else contextlib.nullcontext():
      outs = _bind(eqn, given)
    values.update(zip(eqn.outvars, outs, strict=True))
  return list(map(read, jaxpr.outvars))


def _bind(eqn: Any, args: list[Any]) -> list[Any]:
  """Computes an equation, with its convolutions in that order."""
  if eqn.primitive is jax.lax.conv_general_dilated_p:
    return [_convolve(*args, **eqn.params)]
  if _is_call(eqn):
    called = eqn.params['jaxpr']
    return _evaluate(called.jaxpr, called.consts, args)
  params = eqn.primitive.get_bind_params(eqn.params)
  if _is_remat(eqn):
    params['jaxpr'] = _remat(params['jaxpr'], args)
  with eqn.ctx.manager:
    out = eqn.primitive.bind(*args, **params)
  return out if eqn.primitive.multiple_results else [out]


def _remat(jaxpr: core.Jaxpr, args: list[Any]) -> core.Jaxpr:
  """Returns what is to be computed again going backward, in that order."""
  made = jax.make_jaxpr(lambda *x: _evaluate(jaxpr, [], list(x)))(*args)
  return jaxpr if made.consts else made.jaxpr


def _convolve(
  lhs: jax.Array, rhs: jax.Array, *, dimension_numbers: Any, **params: Any
) -> jax.Array:
  """Convolves with the batch in front and the channels at the end."""
  # Each spec has the places of batch and channels (of the kernel: outputs and
  # inputs), and then those of space.
  (n, c, *space), (o, i, *window), out_spec = dimension_numbers
  last = len(space) + 1
  order = (0, last, *range(1, last))
  out = jax.lax.conv_general_dilated_p.bind(
    jax.lax.transpose(lhs, (n, *space, c)),
    jax.lax.transpose(rhs, (*window, i, o)),
    dimension_numbers=jax.lax.ConvDimensionNumbers(
      order, (last, last - 1, *range(last - 1)), order
    ),
    **params,
  )
  back = [0] * (last + 1)
  for place, axis in zip(out_spec, order, strict=True):
    back[place] = axis
  return jax.lax.transpose(out, back)

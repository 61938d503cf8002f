"""Floating-point operations of a program, counted as JAX traced it.

An operation counts if it is part of a matrix product or of a convolution: two
of them for each multiplication and addition, whatever the device computes
besides. The compiler is not asked, so that two frameworks' counts of one
network agree.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any


def count(jaxpr: Any) -> int:
  """Returns the operations of the products and convolutions of a program.

  Of the branches of a condition the most expensive one counts; the body of a
  loop counts as often as it runs; what each of several devices does counts for
  all.
  A convolution has those of its outputs times the kernel, padding included, and
  so has each of its gradients, as in PyTorch.

  Args:
    jaxpr: of the program, such as `jax.jit(f).trace(*args).jaxpr`.

  Raises:
    ValueError: products are in a loop of which nobody knows how often it runs.
  """
  inner = getattr(jaxpr, 'jaxpr', jaxpr)
  return sum(map(_flops, getattr(inner, 'jaxpr', inner).eqns))


def _flops(eqn: Any) -> int:
  """Returns the operations of one equation, and of what it calls."""
  name = eqn.primitive.name
  if name == 'dot_general':
    return _dot(eqn)
  if name == 'conv_general_dilated':
    return _convolution(eqn)
  if name == 'cond':
    return max(map(count, eqn.params['branches']))
  inner = sum(map(count, _programs(eqn.params)))
  if name == 'while' and inner:
    raise ValueError(
      'a loop without a fixed length holds matrix products; their number is '
      'not known before it runs'
    )
  if name == 'scan':
    return eqn.params['length'] * inner
  if name == 'shard_map':
    sizes = eqn.params['mesh'].shape
    axes = eqn.params.get('newly_manual_axes', sizes)
    return math.prod(sizes[axis] for axis in axes) * inner
  return inner


def _programs(params: Mapping[str, Any]) -> Iterator[Any]:
  """Yields the programs among the parameters of an equation."""
  for value in params.values():
    for each in value if isinstance(value, (tuple, list)) else (value,):
      if hasattr(each, 'eqns') or hasattr(each, 'jaxpr'):
        yield each


def _dot(eqn: Any) -> int:
  """Returns the operations of a matrix product."""
  (contracted, _), _ = eqn.params['dimension_numbers']
  shape = eqn.invars[0].aval.shape
  terms = math.prod(shape[axis] for axis in contracted)
  return 2 * terms * math.prod(eqn.outvars[0].aval.shape)


def _convolution(eqn: Any) -> int:
  """Returns the operations of a convolution, or of one of its gradients."""
  lhs, rhs, out = (
    v.aval.shape for v in (eqn.invars[0], eqn.invars[1], eqn.outvars[0])
  )
  inputs, kernel, outputs = eqn.params['dimension_numbers']
  # Features out, and features in: those that the kernel has, of a group.
  count = 2 * out[outputs[0]] * out[outputs[1]] * rhs[kernel[1]]
  # A gradient by the kernel adds up over what was the batch.
  is_by_kernel = inputs[0] > inputs[1]
  for place in range(len(out) - 2):
    before, taps, after = (
      shape[axes[2 + place]]
      for shape, axes in ((lhs, inputs), (rhs, kernel), (out, outputs))
    )
    reach = eqn.params['rhs_dilation'][place] * (taps - 1)
    is_full = tuple(eqn.params['padding'][place]) == (reach, reach)
    if (is_full and not is_by_kernel) or eqn.params['lhs_dilation'][place] > 1:
      # A gradient by the input: each place of the output that there was meets
      # the whole kernel, the zeros between and around them do not.
      after = min(before, after)
    count *= taps * after
  return count

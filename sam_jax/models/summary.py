"""What a model is made of: layers, shapes, parameters and arithmetic.

Everything is read off the shapes and the traced program: no weight is drawn,
nothing is compiled or run, so the largest model takes a few seconds.

A FLOP is one floating-point operation: a multiplication and the addition that
follows are two. Many papers print multiply-adds, half of it, some of them under
the name of FLOPs. Counted are the convolutions and matrix products of a forward
pass over one example in evaluation, zeros of the padding included, as papers
do; XLA's own figure, with everything else but without those zeros, stands
beside it. A backward pass takes about twice as much, a step of SAM six times.

One trace serves all rows; `flax.linen.tabulate` lowers every module by itself,
which takes four times as long for a deep network, and leaves the padding out.
"""

import collections
import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn, traverse_util
from jax.extend import core

from sam_jax import keys

_Path = tuple[str, ...]

# Names the module call that an operation of the traced program belongs to.
_SCOPE = 'module_call_'
_OWNER = re.compile(rf'{_SCOPE}(\d+)')


class Row(NamedTuple):
  """A module, with what is in it and in no row below.

  Attributes:
    path: its names from the top on; () is the model itself.
    kind: its class.
    output: shape of what it returns for one image, such as '32x32x16'.
    parameters: number of them.
    statistics: number of other variables: BatchNorm's means and variances.
    flops: of convolutions and matrix products.
  """

  path: _Path
  kind: str
  output: str
  parameters: int
  statistics: int
  flops: int


class Summary(NamedTuple):
  """A model's rows and totals.

  Attributes:
    rows: in the order of execution; their numbers add up to the totals.
    parameter_bytes: memory of the parameters.
    xla_flops: all floating-point operations but transcendental functions, as
      XLA counts those of the lowered program.
  """

  rows: list[Row]
  parameter_bytes: int
  xla_flops: int

  @property
  def parameters(self) -> int:
    """Number of parameters."""
    return sum(row.parameters for row in self.rows)

  @property
  def statistics(self) -> int:
    """Number of BatchNorm statistics."""
    return sum(row.statistics for row in self.rows)

  @property
  def flops(self) -> int:
    """Of convolutions and matrix products, per example."""
    return sum(row.flops for row in self.rows)


class _Call(NamedTuple):
  """A call of a module."""

  path: _Path
  kind: str
  output: str


def summarize(
  model: nn.Module, shape: tuple[int, ...], *, depth: int = 1
) -> Summary:
  """Returns the layers of a model, and what they hold and do.

  Args:
    model: called as `sam_jax.models.register` says.
    shape: of an example: height, width and channels of an image, or the number
      of tokens of a text.
    depth: 1 for the modules at the top, 2 for those in them as well, ...

  Raises:
    ValueError: the model refuses such examples, or depth is not positive.

  Example:
    >>> from sam_jax import models
    >>> from sam_jax.models import summary
    >>> model = models.create('Resnet50', num_classes=1000)
    >>> table = summary.summarize(model, (224, 224, 3))
    >>> f'{table.parameters:,}', f'{table.flops / 2e9:.1f} G multiply-adds'
    ('25,557,032', '4.1 G multiply-adds')
  """
  if depth < 1:
    raise ValueError(f'depth is {depth}; it must be at least 1')
  dtype = jnp.int32 if len(shape) == 1 else jnp.float32
  example = jax.ShapeDtypeStruct((1, *shape), dtype)
  key = jax.eval_shape(functools.partial(keys.make, 0))
  init = functools.partial(model.init, train=False)
  variables = jax.eval_shape(init, key, example)
  calls, traced = _trace(model, variables, example)
  return Summary(
    rows=_rows(calls, variables, _count(traced.jaxpr.jaxpr), depth),
    parameter_bytes=sum(
      leaf.size * leaf.dtype.itemsize
      for leaf in jax.tree.leaves(variables['params'])
    ),
    xla_flops=int(traced.lower().cost_analysis()['flops']),
  )


def default_size(name: str, model: nn.Module) -> int:
  """Returns the height and width of the images that a model is made for.

  Args:
    name: under which it was created.
    model: has an attribute `resolution` that is not None, or is one of
      ImageNet's (224) if it is a ResNet, a ViT or a Mixer under a name of the
      literature, else of CIFAR's (32).
  """
  is_large = name.lower().startswith(('resnet', 'vit-', 'mixer-'))
  return getattr(model, 'resolution', None) or (224 if is_large else 32)


def _trace(
  model: nn.Module, variables: Mapping[str, Any], example: jax.ShapeDtypeStruct
) -> tuple[list[_Call], Any]:
  """Returns the calls of modules in order, and the traced forward pass.

  Operations of the i-th call have the scope `_SCOPE` and i.
  """
  calls: list[_Call] = []

  def record(
    call_fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: nn.module.InterceptorContext,
  ) -> Any:
    if context.method_name != '__call__':
      return call_fn(*args, **kwargs)
    module, index = context.module, len(calls)
    # Entered now, it comes before the calls of the modules inside.
    calls.append(_Call(module.path, type(module).__name__, output=''))
    with jax.named_scope(f'{_SCOPE}{index}'):
      output = call_fn(*args, **kwargs)
    calls[index] = calls[index]._replace(output=_describe(output))
    return output

  with nn.intercept_methods(record):
    traced = jax.jit(functools.partial(model.apply, train=False)).trace(
      variables, example
    )
  return calls, traced


def _describe(output: Any) -> str:
  """Returns the shapes of arrays, without the batch."""
  leaves = jax.tree.leaves(output)
  return ', '.join('x'.join(map(str, leaf.shape[1:])) for leaf in leaves)


def _count(jaxpr: core.Jaxpr, owner: int = 0) -> collections.Counter[int]:
  """Returns the FLOPs of each call, those of inner programs included.

  The bodies of `while` count once, as nobody knows how often they run, and so
  does each branch of a `cond`.
  """
  flops: collections.Counter[int] = collections.Counter()
  for eqn in jaxpr.eqns:
    # An inner program may start without the scopes around it.
    scopes = _OWNER.findall(str(eqn.source_info.name_stack))
    call = int(scopes[-1]) if scopes else owner
    flops[call] += _flops(eqn)
    repeats = eqn.params['length'] if eqn.primitive.name == 'scan' else 1
    for inner in _inner_programs(eqn):
      counted = _count(inner, call)
      flops.update({key: repeats * counted[key] for key in counted})
  return flops


def _inner_programs(eqn: core.JaxprEqn) -> list[core.Jaxpr]:
  """Returns the programs that an operation runs, such as a loop's body."""
  leaves = jax.tree.leaves(list(eqn.params.values()))
  programs = (getattr(leaf, 'jaxpr', leaf) for leaf in leaves)
  return [inner for inner in programs if isinstance(inner, core.Jaxpr)]


def _flops(eqn: core.JaxprEqn) -> int:
  """Returns the FLOPs of a convolution or matrix product, else 0."""
  kind = eqn.primitive.name
  if kind not in ('conv_general_dilated', 'dot_general'):
    return 0
  left, right = (_shape(variable) for variable in eqn.invars)
  dimensions = eqn.params['dimension_numbers']
  if kind == 'dot_general':
    (contracted, _), _ = dimensions
    terms = math.prod(left[axis] for axis in contracted)
  else:
    # A kernel has only the inputs of its group.
    terms = math.prod(right) // right[dimensions.rhs_spec[0]]
  return 2 * math.prod(_shape(eqn.outvars[0])) * terms


def _shape(variable: Any) -> tuple[int, ...]:
  """Returns the shape of an input or output of an operation."""
  return variable.aval.shape


def _rows(
  calls: list[_Call],
  variables: Mapping[str, Any],
  flops: Mapping[int, int],
  depth: int,
) -> list[Row]:
  """Gives each number to the innermost module that is shown."""
  shown: dict[_Path, _Call] = {}
  for call in calls:
    if len(call.path) <= depth:
      shown.setdefault(call.path, call)
  counts: dict[_Path, collections.Counter[str]] = {
    path: collections.Counter() for path in shown
  }

  def add(path: _Path, what: str, amount: int) -> None:
    while path not in shown:
      path = path[:-1]
    counts[path][what] += amount

  for index, amount in flops.items():
    add(calls[index].path, 'flops', amount)
  for collection, tree in variables.items():
    what = 'parameters' if collection == 'params' else 'statistics'
    for path, leaf in traverse_util.flatten_dict(tree).items():
      add(path, what, leaf.size)
  return [
    Row(
      *call,
      *(counts[path][what] for what in ('parameters', 'statistics', 'flops')),
    )
    for path, call in shown.items()
    if path or counts[path].total()
  ]

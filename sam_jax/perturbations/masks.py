"""Masks: which parameters are perturbed, or stretched, by their names.

Each is a function of the parameters that returns a tree of bools, for `masked`
and for the argument `stretched`. The name of a parameter is its path,
'block_1/Conv_0/kernel'. A mask that chooses nothing is refused, because it
would turn SAM into SGD without a word; the error lists the names.
"""

import functools
import re
from collections.abc import Callable

import jax

from sam_jax import types

# 'LayerNorm_0', 'batch_normalization_1', 'bn1', 'init_bn', 'pre-pool-bn'; in
# 'NormalDense_0' and 'lngate' the letters stand for something else.
_NORMALISATION = re.compile(
  r'norm(?!al(?!i))|(^|[^a-z])(bn|ln|gn)([^a-z]|$)', re.IGNORECASE
)
_OF_NORMALISATION = ('scale', 'bias', 'weight')
_KERNEL = re.compile(r'(.*_)?kernel|embedding|weight')


def matching(pattern: str) -> Callable[[types.Params], types.PyTree]:
  r"""Returns a mask of the parameters whose names match.

  Args:
    pattern: a regular expression, of which a match anywhere in the name is
      enough.

  Raises:
    ValueError: it is no regular expression; or, when called, matches no name.

  Example:
    >>> import jax.numpy as jnp
    >>> from sam_jax import perturbations
    >>> params = {'conv': {'kernel': jnp.ones(2)}, 'head': jnp.ones(3)}
    >>> perturbations.masks.matching('^head')(params)
    {'conv': {'kernel': False}, 'head': True}
  """
  try:
    expression = re.compile(pattern)
  except re.error as error:
    raise ValueError(
      f'{pattern!r} is no regular expression: {error}'
    ) from error
  return functools.partial(
    _named,
    lambda name: expression.search(name) is not None,
    f'matches {pattern!r}',
  )


def normalisation(params: types.Params) -> types.PyTree:
  """Chooses scale and bias of normalisation layers, as in SAM-ON.

  These are parameters called scale, bias or weight of a module whose name has
  'norm' in it, or the word bn, ln or gn: LayerNorm_0, batch_normalization_1,
  bn2, init_bn, ln_f.

  Raises:
    ValueError: there are none, or another module has a scale, of which it is
      not known what it is: choose by `matching` then.
  """

  def is_chosen(module: str, leaf: str) -> bool:
    if _is_normalisation(module):
      return leaf in _OF_NORMALISATION
    if leaf == 'scale':
      raise ValueError(
        f"'{module}/scale' may be of a normalisation layer, but the name of "
        "its module has no 'norm', bn, ln or gn; choose by a regular "
        'expression, masks.matching(pattern)'
      )
    return False

  what = 'is the scale or the bias of a normalisation layer'
  return _named(lambda name: is_chosen(*_parted(name)), what, params)


def kernels(params: types.Params) -> types.PyTree:
  """Chooses kernels and embeddings, by what Flax calls them.

  These are kernel, or a word and _kernel, and embedding; and weight, as other
  libraries call both, but not that of a normalisation layer.

  Raises:
    ValueError: there are none.
  """

  def is_chosen(module: str, leaf: str) -> bool:
    return _is_kernel(leaf) and not _is_normalisation(module)

  what = 'is a kernel or an embedding'
  return _named(lambda name: is_chosen(*_parted(name)), what, params)


def weights(params: types.Params) -> types.PyTree:
  """Chooses what PyTorch calls a weight, which ASAM's authors stretch.

  These are kernels and embeddings, see `kernels`, and parameters called scale
  or weight, those of normalisation layers too.

  Raises:
    ValueError: there are none.
  """

  def is_chosen(name: str) -> bool:
    _, leaf = _parted(name)
    return _is_kernel(leaf) or leaf == 'scale'

  return _named(is_chosen, 'is a kernel, an embedding or a scale', params)


def _parted(name: str) -> tuple[str, str]:
  """Returns the path of the module of a parameter, and what it calls it."""
  module, _, leaf = name.rpartition('/')
  return module, leaf


def _is_kernel(leaf: str) -> bool:
  """Whether a module calls a kernel or an embedding so."""
  return _KERNEL.fullmatch(leaf) is not None


def _is_normalisation(module: str) -> bool:
  """Whether the last part of a path is the name of a normalisation layer."""
  return _NORMALISATION.search(module.rpartition('/')[2]) is not None


def _named(
  is_chosen: Callable[[str], bool], what: str, params: types.Params
) -> types.PyTree:
  """Returns whether the name of each parameter is chosen.

  Raises:
    ValueError: none is; the message has the names.
  """
  paths, structure = jax.tree_util.tree_flatten_with_path(params)
  names = [_name(path) for path, _ in paths]
  chosen = [is_chosen(name) for name in names]
  if not any(chosen):
    known = ', '.join(names)
    known = f'{known[:400]}...' if len(known) > 400 else known
    raise ValueError(f'no parameter {what}; the parameters are: {known}')
  return jax.tree.unflatten(structure, chosen)


def _name(path: tuple[jax.tree_util.KeyEntry, ...]) -> str:
  """Returns the name of a parameter; a variable of `flax.nnx` has a value."""
  if path and path[-1] == jax.tree_util.GetAttrKey('value'):
    path = path[:-1]
  return jax.tree_util.keystr(path, simple=True, separator='/')

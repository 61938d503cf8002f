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

# 'LayerNorm_0', 'batch_normalization_1', 'rms_norm', 'bn1', 'ln_f', 'gn'; in
# 'NormalDense_0' and 'lngate' the letters stand for something else.
_NORMALISATION = re.compile(
  r'norm(?!al(?!i))|^(bn|ln|gn)(?![a-z])', re.IGNORECASE
)
_OF_NORMALISATION = ('scale', 'bias', 'weight')
_KERNELS = ('kernel', 'embedding', 'weight')


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
  'norm' in it, or is bn, ln or gn, perhaps with a number or a word after it:
  LayerNorm_0, batch_normalization_1, bn2, ln_f.

  Raises:
    ValueError: there are none.
  """

  def is_chosen(name: str) -> bool:
    module, _, leaf = name.rpartition('/')
    return leaf in _OF_NORMALISATION and _is_normalisation(module)

  return _named(
    is_chosen, 'is the scale or the bias of a normalisation layer', params
  )


def kernels(params: types.Params) -> types.PyTree:
  """Chooses kernels and embeddings: names that end in what Flax calls them.

  These are kernel and embedding, and weight, as other libraries call both, but
  not that of a normalisation layer.

  Raises:
    ValueError: there are none.
  """

  def is_chosen(name: str) -> bool:
    module, _, leaf = name.rpartition('/')
    return leaf in _KERNELS and not _is_normalisation(module)

  return _named(is_chosen, f'ends in one of {_KERNELS}', params)


def weights(params: types.Params) -> types.PyTree:
  """Chooses what PyTorch calls a weight, which ASAM's authors stretch.

  These are kernels and embeddings, and the scale of normalisation layers:
  whatever is no bias.

  Raises:
    ValueError: there are none.
  """
  names = (*_KERNELS, 'scale')
  return _named(
    lambda name: name.rpartition('/')[2] in names,
    f'ends in one of {names}',
    params,
  )


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

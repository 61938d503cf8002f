"""Pretrained weights to start from: a run of ours, or an official file."""

import collections
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax
import numpy as np

from sam_jax import types
from sam_jax.runs import identity, legacy, loading, npz, positions

# A layer between the last block and the classifier.
_BEFORE_HEAD = 'params/pre_logits/'


class Fitted(NamedTuple):
  """Pretrained variables of a model.

  Attributes:
    variables: with the structure and the dtypes of the model's own.
    new_head: path of the classifier, if it is not the pretrained one.
    changes: what else differs from the pretrained ones, in words.
  """

  variables: types.PyTree
  new_head: str | None
  changes: tuple[str, ...] = ()


def load(
  source: str,
  variables: Mapping[str, types.PyTree],
  num_classes: int,
  info: identity.Info | None = None,
  examples: str = 'images',
) -> types.PyTree:
  """Returns pretrained variables for a model, and prints what they are.

  A run of ours says which classes it knows. If those are others, the classifier
  is a new one, even if there are as many. An .npz file belongs to images in
  [-1, 1]; the first layer takes over the difference to those of the data.

  Args:
    source: see `read`.
    variables: of the model, freshly initialised; or their shapes, to see
      whether the source fits.
    num_classes: outputs of the model, for a head that differs in these.
    info: of the data set to train on; None compares no data.
    examples: the task's word for them.

  Raises:
    ValueError: there is nothing to load, or it does not fit.
    FileNotFoundError: there is no such path.
  """
  loaded, other = read(source), ''
  if info is not None and npz.is_npz(pathlib.Path(source)):
    loaded = npz.renormalise(loaded, info.get('mean'), info.get('std'))
    other = "; the first layer's images are [-1, 1] -> those of the data"
  difference, has_other_classes = _compare_data(source, info, examples)
  fitted = fit(
    variables,
    loaded,
    source=source,
    num_classes=num_classes,
    # What is not one output per class has no classes.
    has_other_classes=has_other_classes
    and info is not None
    and num_classes == info.get('num_classes'),
  )
  if difference:
    other = f'; it was trained on other data: {difference}'
  print(_describe(source, loaded, fitted) + other)
  return fitted.variables


def _compare_data(
  source: str, info: identity.Info | None, examples: str
) -> tuple[str | None, bool]:
  """Returns how the data of a run differ, and whether its classes do."""
  old = identity.read(pathlib.Path(source))
  if info is None or old is None:
    return None, False
  classes = identity.class_difference(info, old)
  return (
    classes or identity.part_difference(info, old, ('train',), examples),
    classes is not None,
  )


def read(source: str | pathlib.Path) -> dict[str, types.PyTree]:
  """Returns the params and batch_stats that a path holds.

  Args:
    source: run directory of ours, of which the last checkpoint counts; or
      what `read_official` takes.

  Raises:
    ValueError: it holds neither.
    FileNotFoundError: there is no such path.
  """
  if (pathlib.Path(source) / 'config.json').exists():
    return loading.load(source).variables
  return read_official(source)


def read_official(source: str | pathlib.Path) -> dict[str, types.PyTree]:
  """Returns the params and batch_stats of an official checkpoint.

  Args:
    source: an .npz file of google-research/vision_transformer; or what
      `legacy.read` takes, a checkpoint of google-research/sam.

  Raises:
    ValueError: it holds neither.
    FileNotFoundError: there is no such path.
  """
  path = pathlib.Path(source)
  return npz.read(path) if npz.is_npz(path) else legacy.read(path)


def fit(
  variables: Mapping[str, types.PyTree],
  loaded: Mapping[str, types.PyTree],
  *,
  source: str,
  num_classes: int,
  has_other_classes: bool = False,
) -> Fitted:
  """Returns loaded variables in place of a model's own, if they fit.

  The classifier stays the model's own where the number of classes differs: it
  is the one dense layer with an output per class whose kernel, and bias if it
  has one, differ in the last axis alone. Where the classes are others but as
  many, it is the one dense layer with an output per class.

  Args:
    variables: params and batch_stats of the model, arrays or shapes.
    loaded: params and batch_stats, arrays.
    source: where they come from, for the message.
    num_classes: of the model.
    has_other_classes: whether an output means another class than it did.

  Raises:
    ValueError: an array is missing, unexpected, of another shape, or not
      finite; the message names the first one. Or the classes are others, and
      several layers could be the classifier.

  Source: official imagenet_models/load_model.py, _replace_dense_layer. Differs
  from the official release: the head is recognised by its shape and not by its
  name, and arrays are matched by name and not by position.
  """
  loaded, resized = positions.resize(loaded, variables, source)
  ours, theirs = _flatten(variables), _flatten(loaded)
  head = _find_new_head(ours, theirs, num_classes)
  if head is None and has_other_classes:
    head = _find_head(ours, num_classes, source)
  left_out = {
    name
    for name in theirs.keys() - ours.keys()
    if head is not None and name.startswith(_BEFORE_HEAD)
  }
  theirs = {k: v for k, v in theirs.items() if k not in left_out}
  kept = {name for name in ours if name.rpartition('/')[0] == head}
  _check_shapes(
    {name: leaf.shape for name, leaf in ours.items() if name not in kept},
    {name: leaf.shape for name, leaf in theirs.items() if name not in kept},
    source,
  )
  values = {
    name: leaf
    if name in kept
    else _convert(theirs[name], leaf.dtype, f'{source} is damaged: {name}')
    for name, leaf in ours.items()
  }
  nested = flax.traverse_util.unflatten_dict(values, sep='/')
  fitted = {collection: nested.get(collection, {}) for collection in variables}
  changes = [resized] if resized else []
  changes += [f'{_BEFORE_HEAD.split("/")[1]} is left out'] * bool(left_out)
  return Fitted(fitted, head, tuple(changes))


def _flatten(tree: Mapping[str, types.PyTree]) -> dict[str, Any]:
  """Returns {'params/Dense_0/kernel': array}, without empty dicts."""
  return flax.traverse_util.flatten_dict(tree, sep='/')


def _find_new_head(
  ours: Mapping[str, Any], theirs: Mapping[str, Any], num_classes: int
) -> str | None:
  """Returns the path of the classifier, if its number of classes differs."""

  def is_resized(name: str) -> bool:
    new, old = ours[name].shape, theirs[name].shape if name in theirs else ()
    return len(old) > 0 and new[:-1] == old[:-1] and new[-1:] != old[-1:]

  heads = [
    layer
    for layer, names in _dense_layers(ours, num_classes).items()
    if all(map(is_resized, names))
  ]
  return heads[0] if len(heads) == 1 else None


def _find_head(ours: Mapping[str, Any], num_classes: int, source: str) -> str:
  """Returns the path of the classifier; refuses to guess."""
  heads = list(_dense_layers(ours, num_classes))
  if len(heads) != 1:
    raise ValueError(
      f'the run in {source} knows other classes, and which layer is the '
      f'classifier is not clear: {len(heads)} have {num_classes} outputs; '
      'choose another number of hidden features, or other data'
    )
  return heads[0]


def _dense_layers(
  ours: Mapping[str, Any], num_outputs: int
) -> dict[str, list[str]]:
  """Returns the dense layers with so many outputs, and their arrays' names."""
  layers = collections.defaultdict(list)
  for name in ours:
    layers[name.rpartition('/')[0]].append(name)
  return {
    layer: names
    for layer, names in layers.items()
    if f'{layer}/kernel' in names
    and ours[f'{layer}/kernel'].ndim == 2
    and all(ours[name].shape[-1:] == (num_outputs,) for name in names)
  }


def _check_shapes(
  ours: Mapping[str, tuple[int, ...]],
  theirs: Mapping[str, tuple[int, ...]],
  source: str,
) -> None:
  """Refuses anything but the same names with the same shapes."""
  wrong = {
    name: 'missing'
    if name not in theirs
    else 'unexpected'
    if name not in ours
    else 'of another shape'
    for name in ours.keys() | theirs.keys()
    if ours.get(name) != theirs.get(name)
  }
  if not wrong:
    return
  first = min(wrong, key=lambda name: (not name.startswith('params/'), name))
  details = [f'needs {list(ours[first])}'] if first in ours else []
  details += [f'found {list(theirs[first])}'] if first in theirs else []
  counts = collections.Counter(wrong.values())
  raise ValueError(
    f'{source} does not fit the model: {first} is {wrong[first]}: '
    f'{", ".join(details)} (of {len(ours)} arrays '
    f'{counts["of another shape"]} of another shape, {counts["missing"]} '
    f'missing, and {counts["unexpected"]} unexpected); choose the model that '
    'it was saved from'
  )


def _convert(value: Any, dtype: np.dtype, what: str) -> np.ndarray:
  """Returns a loaded array on the host; refuses one that is not finite."""
  array = np.asarray(value)
  if not np.isfinite(array).all():
    raise ValueError(
      f'{what} has values that are not finite; fetch or train it again'
    )
  return array.astype(dtype, copy=False)


def _describe(
  source: str, loaded: Mapping[str, types.PyTree], fitted: Fitted
) -> str:
  """Returns what was loaded in one line."""
  head = fitted.new_head
  leaves = {
    name: leaf
    for name, leaf in _flatten(fitted.variables).items()
    if name.rpartition('/')[0] != head
  }
  count = sum(v.size for k, v in leaves.items() if k.startswith('params/'))
  line = (
    f'initialised from {source}: {len(leaves)} arrays, {count:,} parameters'
  )
  line = '; '.join([line, *fitted.changes])
  if head is None:
    return line
  old = _flatten(loaded)[f'{head}/kernel'].shape[-1]
  new = _flatten(fitted.variables)[f'{head}/kernel'].shape[-1]
  what = f'{old} -> {new} classes' if old != new else f'{new} other classes'
  return f'{line}; classifier {head.removeprefix("params/")} is new: {what}'

"""A run belongs to its data: what they are, and where others differ.

Each checkpoint holds the names of the classes, the number of examples and a
fingerprint of every split (`datasets.fingerprints` says what that covers). A
run is resumed and evaluated on these data alone.
"""

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from sam_jax import datasets
from sam_jax.datasets import fingerprints
from sam_jax.runs import checkpoints, workdir as workdir_lib
from sam_jax.training import parallel

Info = Mapping[str, Any]  # of a task, as a checkpoint has it

_DATA = 'fingerprints'
_COUNTS = {
  'num_classes': 'there are {} classes, were {}',
  'vocabulary_size': 'the vocabulary has {:,} tokens, had {:,}',
}
_WORDS = {'train': 'training', 'extra': 'extra training'}


def describe(dataset: Any) -> dict[str, Any]:
  """Returns the info of a data set, with what tells it from others.

  Args:
    dataset: of a task. One that was not made by `datasets.create` has the
      fingerprints of the arrays in its `train` and `evaluation`.
  """
  source = getattr(dataset, 'source', None)
  if isinstance(dataset, datasets.TextDataset):
    known = dataset.fingerprints
  elif source is not None:
    known = {
      split: fingerprints.of(*examples)
      for split, examples in source.splits.items()
    }
  else:
    known = {
      part: found
      for part in ('train', 'evaluation')
      if (found := _of_arrays(getattr(dataset, part))) is not None
    }
  return {**dataset.info, _DATA: known}


def _of_arrays(examples: Any) -> fingerprints.Fingerprint | None:
  """Returns the fingerprint of any tree of arrays; None of anything else."""
  leaves = jax.tree.leaves(examples)
  if not leaves or not all(isinstance(leaf, np.ndarray) for leaf in leaves):
    return None
  return {
    'count': len(leaves[0]) if leaves[0].ndim else 1,
    'labels': None,
    'names': None,
    'contents': ' '.join(map(fingerprints.of_array, leaves)),
  }


def read(workdir: pathlib.Path) -> Info | None:
  """Returns the info in the newest checkpoint that has one, if there is any.

  Args:
    workdir: of a run; it may be missing.
  """
  if not (workdir / 'config.json').exists():
    return None
  saved = checkpoints.Checkpoints(
    workdir / 'checkpoints',
    run_id=workdir_lib.run_id(workdir),
    read_only=True,
  )
  with contextlib.closing(saved):
    for step in reversed(saved.steps()):
      # A damaged one is skipped, as it is when the run is resumed.
      with contextlib.suppress(Exception):
        return saved.read_journal(step)[1]
  return None


def check_resumed(
  new: Info, workdir: pathlib.Path, split: str, examples: str
) -> None:
  """Refuses to resume a run on other data than it was trained on.

  Args:
    new: of the data set that is there now.
    workdir: of the run, which need not have begun.
    split: that the run evaluates on.
    examples: the task's word for them.

  Raises:
    ValueError: the message names the first difference.
  """
  old = read(workdir)
  if old is None:
    return
  parts = [*_parts(old, 'train', split), *_parts(old, split, split)]
  if found := difference(new, old, parts, examples):
    raise ValueError(
      f'the workdir holds a run on other data: {found}; use another workdir, '
      'or the data of that run'
    )


def check_classes(dataset: Any) -> None:
  """Refuses training examples that are all of one class.

  Args:
    dataset: of a task; one without labels of classes is not looked at.

  Raises:
    ValueError: there is nothing to learn.
  """
  if not isinstance(dataset, datasets.Dataset):
    return
  labels = dataset.train.labels
  if len(labels) > 1 and (labels == labels[0]).all():
    name = dataset.classes[labels[0]] if dataset.classes else int(labels[0])
    raise ValueError(
      f'{dataset.name}: all {len(labels):,} training examples are of one '
      f'class, {name!r}, and there is nothing to learn; usually a folder level '
      'or the labels are other than they seem'
    )


def check_processes(info: Info) -> None:
  """Refuses processes that train together on data that differ.

  Args:
    info: of the data set that this process has; all have to ask.

  Raises:
    ValueError: in all processes, if one has others than the first.
  """
  content = json.dumps(info, sort_keys=True).encode()
  digest = np.frombuffer(hashlib.sha256(content).digest(), np.uint8)
  if which := parallel.which_differs(digest):
    raise ValueError(
      f'{which} process has other data than the first one; give all processes '
      'that train together the same data'
    )


def check_evaluated(
  new: Info, old: Info, split: str, own_split: str, examples: str
) -> None:
  """Refuses to evaluate a run on other data than its own.

  Args:
    new: of the data set that is there now.
    old: of the checkpoint.
    split: to evaluate on.
    own_split: that the run evaluated on.
    examples: the task's word for them.

  Raises:
    ValueError: the message names the first difference.
  """
  parts = _parts(old, split, own_split)
  if found := difference(new, old, parts, examples):
    raise ValueError(
      f'these are not the data that the run belongs to: {found}; put those '
      'back, or give evaluate --directory for others of the same classes'
    )


def check_same_training(
  new: Info, old: Info | None, source: str, examples: str
) -> None:
  """Refuses labels that were predicted for other training examples.

  Args:
    new: of the data set to be labelled.
    old: of the run that predicts, None if it is not known.
    source: where that run is.
    examples: the task's word for them.

  Raises:
    ValueError: the message names the first difference.
  """
  if old is None:
    return
  # The size that images are decoded to may differ.
  found = class_difference(new, old) or part_difference(
    new, old, _parts(old, 'train', 'test'), examples
  )
  if found:
    raise ValueError(
      f'the run in labels_from={source!r} was trained on other data: {found}; '
      'they must agree'
    )


def difference(
  new: Info, old: Info, parts: Iterable[str], examples: str = 'images'
) -> str | None:
  """Returns the first difference of two data sets in words; None if none.

  What either of them does not know is not compared.

  Args:
    new: of the data set that is there now.
    old: of the one that a run was trained on.
    parts: names of the splits to compare, of `old`.
    examples: the task's word for them.
  """
  if found := class_difference(new, old):
    return found
  now, before = (info.get('image_shape') for info in (new, old))
  if now and before and list(now) != list(before):
    return f'{examples} have the shape {now}, had {before}'
  return part_difference(new, old, parts, examples)


def class_difference(new: Info, old: Info) -> str | None:
  """Returns the first difference of classes, or of tokens, in words."""
  for name, found in _COUNTS.items():
    counts = [info.get(name) for info in (new, old)]
    if None not in counts and counts[0] != counts[1]:
      return found.format(*counts)
  tokenizers = [info.get('tokenizer') for info in (new, old)]
  if None not in tokenizers and tokenizers[0] != tokenizers[1]:
    return 'the tokens are those of another tokenizer'
  names = [info.get('classes') or () for info in (new, old)]
  for label, (now, before) in enumerate(zip(*names, strict=False)):
    if now != before:
      return f'class {label} is {now!r}, was {before!r}'
  return None


def part_difference(
  new: Info, old: Info, parts: Iterable[str], examples: str = 'images'
) -> str | None:
  """Returns the first difference of two data sets of the same classes."""
  news, olds = new.get(_DATA), old.get(_DATA)
  if not news or not olds:
    return None
  for part in parts:
    if (part in news) != (part in olds):
      now, before = ('a', 'was none') if part in news else ('no', 'was one')
      return f'there is {now} split {part!r}, there {before}'
    if part in news and (found := _compare(news[part], olds[part])):
      what = f'{_WORDS.get(part, part)} {examples}'
      return found.format(what=what) + _origins(new, old)
  return None


def _origins(new: Info, old: Info) -> str:
  """Returns what two texts are, if they say that they are others."""
  now, before = new.get('origin'), old.get('origin')
  return f' (now {now}, then {before})' if now != before else ''


def _compare(new: Info, old: Info) -> str | None:
  """Returns how two fingerprints differ, with {what} for whose they are."""
  if new['count'] != old['count']:
    return f'{new["count"]:,} {{what}}, were {old["count"]:,}'
  differs = {
    key
    for key in ('names', 'labels', 'contents')
    if None not in (new[key], old[key]) and new[key] != old[key]
  }
  if 'names' in differs:
    return 'as many {what}, but with other names'
  if 'labels' in differs:
    return 'as many {what}, but with other labels'
  if 'contents' in differs:
    if new['names'] is None:
      return 'as many {what}, but with other contents'
    return 'the {what} have the same names, but other contents'
  return None


def is_apart(info: Info, split: str) -> bool:
  """Whether a split is not cut off the training examples of a run."""
  return split in (info.get(_DATA) or {})


def _parts(info: Info, split: str, own_split: str) -> tuple[str, ...]:
  """Returns which fingerprints are of what a split evaluates on.

  Args:
    info: of a run.
    split: 'train', 'test' or 'validation'.
    own_split: that the run evaluates on; of a data set that was not made by
      `datasets.create` only its fingerprint is known.
  """
  known = info.get(_DATA) or {}
  if split == 'train':
    return ('train', 'extra')
  if 'evaluation' in known:
    return ('evaluation',) if split == own_split else ()
  if split == 'validation' and 'validation' not in known:
    return ('validation', 'train')  # it is cut off the training examples
  return (split,)

"""The run directory: whose run it is, and what a run leaves in it."""

import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections

# What may change when a run goes on: it does not change the result, or only by
# the rounding of another order of sums.
_OPERATIONAL = (
  'checkpoint',
  'data.directory',
  'data.workers',
  'eval_batch_size',
  'eval_every_epochs',
  'eval_train',
  'log',
  'microbatch_loop',
  'model.remat',
  'parallel',
)
_LENGTHS = ('num_epochs', 'num_steps')
SOURCES = ('labels_from', 'init_from')  # fields that may be other runs
# Filled in at the first start, if they are not set.
_RESOLVED = ('data.image_size', 'microbatch_size', 'm')


def read_config(workdir: pathlib.Path) -> ml_collections.ConfigDict | None:
  """Returns the config of the run in a directory, None if there is none.

  Raises:
    ValueError: its config.json cannot be read.
  """
  path = workdir / 'config.json'
  try:
    content = dict(json.loads(path.read_text('utf-8')))
  except (FileNotFoundError, NotADirectoryError):
    return None
  except (OSError, TypeError, ValueError) as error:
    raise ValueError(
      f'{path} cannot be read ({error}); use another workdir'
    ) from error
  return ml_collections.ConfigDict(_tuples(content))


def _tuples(value: Any) -> Any:
  """Turns the lists of JSON into the tuples that they were."""
  if isinstance(value, dict):
    return {key: _tuples(child) for key, child in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


def has_begun(workdir: pathlib.Path) -> bool:
  """Whether a run has left anything in the directory that would be lost."""
  metrics = workdir / 'metrics.jsonl'
  has_logged = metrics.exists() and metrics.stat().st_size > 0
  checkpoints = (workdir / 'checkpoints').glob('*')
  return has_logged or any(path.name.isdigit() for path in checkpoints)


def adopt(
  config: ml_collections.ConfigDict, saved: ml_collections.ConfigDict
) -> ml_collections.ConfigDict:
  """Returns the config with which the run in a directory goes on.

  Args:
    config: that was asked for; what is filled in may be unset.
    saved: of the run.

  Raises:
    ValueError: they are not the same run; the message says where they differ.
  """
  return _adopt(config, saved, flatten(config).keys() | flatten(saved).keys())


def check_finished(
  config: ml_collections.ConfigDict, saved: ml_collections.ConfigDict
) -> None:
  """Refuses a finished run that is not one of this config.

  Unlike one that goes on, it need not know the fields that came after it.

  Raises:
    ValueError: see `adopt`.
  """
  _adopt(config, saved, flatten(saved).keys())


def _adopt(
  config: ml_collections.ConfigDict,
  saved: ml_collections.ConfigDict,
  names: Iterable[str],
) -> ml_collections.ConfigDict:
  """Returns what `adopt` does, of which these fields are compared."""
  config = config.copy_and_resolve_references()
  old = flatten(saved)
  for name in _RESOLVED:
    if flatten(config)[name] is None:
      config.update_from_flattened_dict({name: old.get(name)})
  new = flatten(config)
  differing = [
    name
    for name in sorted(names)
    if new.get(name) != old.get(name) and not _may_differ(name, new, old)
  ]
  if differing:
    listed = '; '.join(
      f'{name} is {new.get(name)!r}, was {old.get(name)!r}'
      for name in differing
    )
    raise ValueError(
      f'the workdir holds a run with another config: {listed}; use another '
      'workdir, or the config of that run'
    )
  return config


def write_config(
  workdir: pathlib.Path, config: ml_collections.ConfigDict
) -> None:
  """Writes config.json, the directory too if need be.

  Raises:
    ValueError: the directory cannot be written to.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(workdir / 'config.json', config.to_dict())
  except OSError as error:
    raise ValueError(
      f'cannot write to workdir {str(workdir)!r}: {error.strerror}; choose '
      'another --workdir'
    ) from error


def write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
  """Writes a JSON file, whole or not at all."""
  partial = path.with_suffix('.partial')
  with partial.open('w', encoding='utf-8') as stream:
    json.dump(content, stream, indent=2)
    stream.write('\n')
    stream.flush()
    os.fsync(stream.fileno())
  partial.replace(path)


def flatten(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns {'method.rho': 0.05, ...} with the types that JSON leaves."""
  flat = {}

  def visit(prefix: str, value: Any) -> None:
    if isinstance(value, dict):
      for key, child in value.items():
        visit(f'{prefix}.{key}' if prefix else key, child)
    else:
      flat[prefix] = value

  visit('', json.loads(json.dumps(config.to_dict())))
  return flat


def _may_differ(
  name: str, new: Mapping[str, Any], old: Mapping[str, Any]
) -> bool:
  """Whether a field may change when a run goes on."""
  if name in SOURCES:
    # It may have moved, or be mounted elsewhere.
    paths = [pathlib.Path(c.get(name) or '') for c in (old, new)]
    return paths[0].name == paths[1].name and not paths[0].exists()
  if name in _LENGTHS:
    # Under any other schedule the steps made would have been other steps, and
    # a shorter run may be shorter than what is made already.
    lengths = (old.get(name), new.get(name))
    is_longer = None not in lengths and lengths[0] < lengths[1]
    return is_longer and new['schedule.name'] == 'constant'
  return is_operational(name)


def is_operational(name: str) -> bool:
  """Whether a field says how a run is made and not what comes out."""
  return any(name == f or name.startswith(f + '.') for f in _OPERATIONAL)

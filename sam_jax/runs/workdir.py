"""The run directory: whose run it is, and what a run leaves in it.

config.json and result.json are sealed (see `seals`): they name the run that
they belong to, by a random id that config.json gives it, and what was changed
in them by anything but a run is noticed. Of config.json, the fields that do not
change what comes out of a run (`is_operational`) may be edited.
"""

import contextlib
import json
import pathlib
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_collections

from sam_jax.runs import fields as fields_lib, files, seals

# What may change when a run is resumed: it does not change the result, or only
# by the rounding of another order of sums.
_OPERATIONAL = (
  'allow_change',
  'checkpoint',
  'data.directory',
  'data.tokenizer',
  'data.workers',
  'eval_batch_size',
  'eval_every_epochs',
  'eval_train',
  'fsdp',
  'log',
  'microbatch_loop',
  'model.remat',
  'parallel',
)
# What `config.allow_change` may name: numbers that may have led to a loss that
# is not finite, and what is done about it. They change neither what a state
# holds nor the data.
CHANGEABLE = (
  'gradient_clipping',
  'label_smoothing',
  'learning_rate',
  'max_skipped_steps',
  'method.rho',
  'method.rho_min',
  'on_nonfinite',
  'weight_decay.rate',
)
# Of those, the ones that make another step, with another state, if they are 0.
_OFF_AT_ZERO = ('gradient_clipping', 'method.rho', 'weight_decay.rate')
_FIELDS_OF_METHOD = 'method.'
_LENGTHS = ('num_epochs', 'num_steps')
# How the radius changes when the length of the run is of no consequence.
_ENDLESS_RADII = (None, 'constant', 'learning_rate')
SOURCES = ('labels_from', 'init_from')  # fields that may be other runs
# Filled in at the first start, if they are not set.
_RESOLVED = ('data.image_size', 'microbatch_size', 'm')


def read_config(workdir: pathlib.Path) -> ml_collections.ConfigDict | None:
  """Returns the config of the run in a directory, None if there is none.

  Raises:
    ValueError: its config.json cannot be read, is damaged, or is of another
      edition.
  """
  found = _open_config(workdir)
  return None if found is None else ml_collections.ConfigDict(_tuples(found[0]))


def run_id(workdir: pathlib.Path) -> str:
  """Returns the id of the run in a directory, which has a config.json.

  Raises:
    ValueError: see `read_config`.
  """
  found = _open_config(workdir)
  if found is None:
    raise ValueError(f'{workdir} has no config.json')
  return found[1]


def _open_config(workdir: pathlib.Path) -> tuple[dict[str, Any], str] | None:
  """Returns what config.json holds and the id of the run."""
  path = workdir / 'config.json'
  try:
    content, seal = seals.read(path)
    if seal is None:
      raise other_edition(path)
    return content, seals.check(path, seal, _identity(content))
  except FileNotFoundError:
    return None
  except (RecursionError, seals.Damaged) as error:
    reason = error if isinstance(error, ValueError) else f'{path} is damaged'
    raise ValueError(
      f'{reason}; put it back from a copy, or use another workdir'
    ) from error


def _identity(content: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields of config.json that its seal covers."""
  flat = _flatten(content)
  return {name: flat[name] for name in flat if not is_operational(name)}


def other_edition(path: pathlib.Path) -> ValueError:
  """Returns the error for a file that another edition has written."""
  return ValueError(
    f'{path} is of another edition of sam_jax, which alone can use this run; '
    'use that edition, or train again in another directory'
  )


def _tuples(value: Any) -> Any:
  """Turns the lists of JSON into the tuples that they were."""
  if isinstance(value, dict):
    return {key: _tuples(child) for key, child in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


def has_begun(workdir: pathlib.Path) -> bool:
  """Whether a run has left anything in the directory that would be lost."""
  metrics = workdir / 'metrics.jsonl'
  has_logged = metrics.exists() and metrics.stat().st_size > 0
  has_ended = (workdir / 'result.json').exists()
  checkpoints = [
    path
    for path in (workdir / 'checkpoints').glob('[0-9]*')
    # Else a kill came before the first one was whole.
    if path.suffix != files.PARTIAL
  ]
  return has_logged or has_ended or bool(checkpoints)


def adopt(
  config: ml_collections.ConfigDict, saved: ml_collections.ConfigDict
) -> ml_collections.ConfigDict:
  """Returns the config with which the run in a directory is resumed.

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

  Unlike one that is resumed, it need not know the fields that were added to
  the configs after it.

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
  saved = saved.copy_and_resolve_references()
  for either in (config, saved):
    fields_lib.fill_method(either)
  asked, old = flatten(config), flatten(saved)
  for name in _RESOLVED:
    if name in asked and asked[name] is None:
      config.update_from_flattened_dict({name: old.get(name)})
  new = flatten(config)
  differing = [
    name
    for name in sorted(names)
    if new.get(name) != old.get(name) and not _may_differ(name, new, old)
  ]
  if 'method.name' in differing:  # of course its fields differ too
    differing = [n for n in differing if not n.startswith(_FIELDS_OF_METHOD)]
    differing.append('method.name')
  if differing:
    listed = '; '.join(
      f'{name} is {new.get(name)!r}, was {old.get(name)!r}'
      for name in differing
    )
    raise ValueError(
      f'the workdir holds a run with another config: {listed}; use another '
      f'workdir, or the config of that run{_way_past(differing, new, old)}'
    )
  return config


def _is_changeable(
  name: str, new: Mapping[str, Any], old: Mapping[str, Any]
) -> bool:
  """Whether `allow_change` may let a field change within a run."""
  values = (new.get(name), old.get(name))
  if name in _OFF_AT_ZERO and not all(values):
    return False
  return name in CHANGEABLE


def _way_past(
  differing: Sequence[str], new: Mapping[str, Any], old: Mapping[str, Any]
) -> str:
  """Returns how a run may be resumed with another config, if it may."""
  if not all(_is_changeable(name, new, old) for name in differing):
    return ''
  return (
    f'; or change it within this run by allow_change={tuple(differing)!r}, '
    'which its result.json will say'
  )


def settings(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns the fields of a config that `allow_change` may name."""
  fields = flatten(config)
  return {name: fields.get(name) for name in CHANGEABLE}


def write_config(
  workdir: pathlib.Path, config: ml_collections.ConfigDict
) -> None:
  """Writes config.json, the directory too if need be; a run keeps its id.

  Raises:
    ValueError: the directory cannot be written to.
  """
  name = secrets.token_hex(8)
  with contextlib.suppress(ValueError):  # there is none, or it was damaged
    name = run_id(workdir)
  content = config.to_dict()
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / 'config.json'
    seals.write(path, content, name, of=_identity(content))
  except OSError as error:
    raise files.not_writable(workdir, error) from error


def read_result(workdir: pathlib.Path) -> dict[str, Any] | None:
  """Returns what result.json of a run holds, None if there is none.

  Raises:
    ValueError: it is damaged, or is that of another run.
  """
  path = workdir / 'result.json'
  try:
    return seals.open_sealed(path, run_id(workdir))[0]
  except FileNotFoundError:
    return None


def write_result(workdir: pathlib.Path, result: Mapping[str, Any]) -> None:
  """Writes result.json of the run in a directory."""
  seals.write(workdir / 'result.json', result, run_id(workdir))


def flatten(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns {'method.rho': 0.05, ...} with the types that JSON leaves."""
  return _flatten(config.to_dict())


def _flatten(content: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what `flatten` does, of nested dicts."""
  flat = {}

  def visit(prefix: str, value: Any) -> None:
    if isinstance(value, dict):
      for key, child in value.items():
        visit(f'{prefix}.{key}' if prefix else key, child)
    else:
      flat[prefix] = value

  visit('', json.loads(json.dumps(content)))
  return flat


def _may_differ(
  name: str, new: Mapping[str, Any], old: Mapping[str, Any]
) -> bool:
  """Whether a field may change when a run is resumed."""
  if name in (new.get('allow_change') or ()) and _is_changeable(name, new, old):
    return True
  if name in SOURCES:
    return _is_same_source(old.get(name) or '', new.get(name) or '')
  if name in _LENGTHS:
    # Under any other schedule the steps made would have been other steps, and
    # a shorter run may be shorter than what is made already.
    before, now = old.get(name), new.get(name)
    if before is None or now is None:
      return False
    return before < now and _is_endless(new)
  return is_operational(name)


def _is_same_source(old: str, new: str) -> bool:
  """Whether two paths are of one run, which may have been moved."""
  if not (old and new):
    return False
  before, now = files.user_path(old), files.user_path(new)
  return before == now or (before.name == now.name and not before.exists())


def _is_endless(fields: Mapping[str, Any]) -> bool:
  """Whether the steps of a run do not depend on its length."""
  is_constant = fields['schedule.name'] == 'constant'
  return is_constant and fields.get('method.rho_schedule') in _ENDLESS_RADII


def is_operational(name: str) -> bool:
  """Whether a field says how a run is made and not what comes out."""
  return any(name == f or name.startswith(f + '.') for f in _OPERATIONAL)

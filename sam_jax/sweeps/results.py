"""The runs in a directory: how far they are, and what they found."""

import dataclasses
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_collections

from sam_jax import tasks
from sam_jax.runs import workdir as workdir_lib
from sam_jax.sweeps import cells as cells_lib, run_files

# The key of result.json by which runs are compared: the score at the end.
FINAL = 'final_score'
# The value of a field that is the directory of another run, which is there.
A_RUN = 'a run'
_MISSING = 'missing: '  # such a value if the directory is not there any more
# Fields that have to be numbers, if they are set, and those that every run has.
_NUMBERS = ('method.rho', 'mixing.alpha', 'm', 'microbatch_size')
_NAMES = ('method.name', 'data.name')


def is_finished(workdir: pathlib.Path) -> bool:
  """Returns whether a run has a result that can be read.

  If its files cannot be read, it is not: the run itself will say what is wrong.
  """
  try:
    return run_files.read_result(workdir) is not None
  except (OSError, ValueError):
    return False


def fraction(workdir: pathlib.Path) -> float:
  """Returns the share of its steps that a run has made, by its log; in [0, 1].

  It is 0 if the files cannot be read: the run itself will say what is wrong.
  """
  if is_finished(workdir):
    return 1.0
  try:
    config = run_files.read_config(workdir)
    lines = run_files.read_metrics(workdir).lines
  except (OSError, ValueError):
    return 0.0
  if config is None or not lines:
    return 0.0
  name, key = ('num_steps', 'step')
  if config.get(name) is None:
    name, key = ('num_epochs', 'epoch')
  length = config.get(name)
  if not run_files.is_number(length) or length <= 0:
    return 0.0
  return max(0.0, min(lines[-1][key] / length, 1.0))


@dataclasses.dataclass(frozen=True)
class FinishedRun:
  """A run that has its result.

  Attributes:
    workdir: its directory.
    fields: of its config, by dotted name, without those that the run ignores.
      If it takes labels or weights from another run, the fields of that run are
      among them, as `labels_from.method.rho`.
    result: content of result.json.
  """

  workdir: pathlib.Path
  fields: cells_lib.Fields
  result: dict[str, Any]

  @property
  def score(self) -> tasks.Score:
    """The metric by which the run is compared with others."""
    return tasks.Score(**self.result['score'])

  @property
  def split(self) -> str:
    """What the run was evaluated on: 'validation' or 'test'."""
    return self.result['split']

  def final(self, metric: str) -> float | None:
    """Returns any metric of the last evaluation, None if it was not logged."""
    return next(reversed(self.curve(f'{self.split}/{metric}').values()), None)

  def curve(self, key: str) -> dict[float, float]:
    """Returns a logged number by epoch, in their order."""
    return {
      line['epoch']: float(line[key])
      for line in run_files.read_metrics(self.workdir).lines
      if run_files.is_number(line.get(key), or_nan=True)
    }


class Found(NamedTuple):
  """The runs under a directory.

  Attributes:
    runs: the finished ones, sorted by path with numbers as numbers.
    num_unfinished: how many are not finished.
    unreadable: why others cannot be read, a line each.
    remarks: what a reader must know of files of the runs, a line each.
  """

  runs: list[FinishedRun]
  num_unfinished: int
  unreadable: list[str]
  remarks: list[str]


def collect(directory: pathlib.Path) -> Found:
  """Finds the runs under a directory.

  Raises:
    ValueError: there is no run at all.
  """
  found = Found([], 0, [], [])
  # One that lost its config is a run, too.
  names = ('config.json', 'result.json')
  workdirs = {path.parent for name in names for path in directory.rglob(name)}
  for workdir in sorted(workdirs, key=_natural):
    try:
      run = _read(workdir)
    except (OSError, RecursionError, ValueError) as error:
      found.unreadable.append(_named(workdir, error))
      continue
    if run is None:
      found = found._replace(num_unfinished=found.num_unfinished + 1)
      continue
    found.runs.append(run)
    found.remarks.extend(_remarks(run))
  found.remarks.extend(_missing(found.runs))
  if not (found.runs or found.num_unfinished or found.unreadable):
    raise ValueError(f'{directory} has no runs in it, nor below')
  return found


def _read(workdir: pathlib.Path) -> FinishedRun | None:
  """Returns the run in a directory, None if it is not finished.

  Raises:
    ValueError: its files are damaged, or do not belong together.
    OSError: they cannot be read.
  """
  result = run_files.read_result(workdir)
  if result is None:
    return None
  config = run_files.read_config(workdir)
  if config is None:
    raise ValueError(f'{workdir} has no config.json')
  run_files.check_agreement(workdir, result, config)
  workdir_lib.read_result(workdir)  # refuses what was changed after the run
  return FinishedRun(workdir, _fields(workdir), result)


def _named(workdir: pathlib.Path, error: Exception) -> str:
  """Returns the message of an error; it names the run."""
  text = ' '.join(str(error).split())
  return text if str(workdir) in text else f'{workdir}: {text}'


def _remarks(run: FinishedRun) -> list[str]:
  """Returns what is missing of a run that is reported all the same."""
  lines, damage = run_files.read_metrics(run.workdir)
  last, steps = lines[-1]['step'] if lines else 0, run.result['steps']
  if not damage and last < steps:
    path = run.workdir / 'metrics.jsonl'
    damage = f'{path} ends at step {last:g} of {steps:g}'
  return [f'{damage}; the curves have what is left'] if damage else []


def _missing(runs: Sequence[FinishedRun]) -> list[str]:
  """Returns a line if directories of first runs are not there any more."""
  found = [
    (run, first)
    for run in runs
    if str(first := run.fields.get('labels_from')).startswith(_MISSING)
  ]
  if not found:
    return []
  run, first = found[0]
  return [
    f'first runs are missing, of {len(found)} runs; that of {run.workdir.name} '
    f'is {first}'
  ]


def _natural(path: pathlib.Path) -> list[str | float]:
  """Returns a key that sorts m=4 before m=16."""
  parts = re.split(r'(\d+(?:\.\d+)?(?:e-?\d+)?)', str(path))
  # Every other part is a number.
  return [float(part) if i % 2 else part for i, part in enumerate(parts)]


def _fields(
  workdir: pathlib.Path, followers: tuple[pathlib.Path, ...] = ()
) -> cells_lib.Fields:
  """Returns the fields of a run's config that tell it from other runs.

  Args:
    workdir: of the run.
    followers: directories of the runs that start from it.
  """
  config = run_files.read_config(workdir)
  if config is None:
    raise ValueError(f'{workdir} has no config.json')
  fields = _heeded(config)
  _check_fields(workdir, fields)
  followers += (workdir,)
  for name in workdir_lib.SOURCES:
    if not fields.get(name):
      continue
    source = pathlib.Path(fields[name])
    # If the runs were moved, those that they start from lie beside them.
    places = [source, workdir.parent / source.name]
    found = [
      path
      for path in places
      if path not in followers and (path / 'config.json').exists()
    ]
    if found:
      theirs = _fields(found[0], followers)
      fields[name] = A_RUN
      fields |= {f'{name}.{key}': value for key, value in theirs.items()}
    elif name == 'labels_from':  # the directory may be deleted after its use
      # Replicas have names of their own, and are one setting all the same.
      fields[name] = _MISSING + re.sub(r',seed=\d+', '', source.name)
  return fields


def _check_fields(workdir: pathlib.Path, fields: cells_lib.Fields) -> None:
  """Refuses a config without what every run has, or with other types.

  Raises:
    ValueError: the message names the file and the fields.
  """
  wrong = [
    name
    for name in _NUMBERS
    if fields.get(name) is not None and not run_files.is_number(fields[name])
  ]
  wrong += [
    name
    for name in workdir_lib.SOURCES
    if not isinstance(fields.get(name, ''), str | None)
  ]
  wrong += [n for n in _NAMES if not isinstance(fields.get(n), str)]
  if wrong:
    shown = ', '.join(f'{n} is {str(fields.get(n))[:40]}' for n in wrong)
    raise ValueError(f'{workdir / "config.json"} is damaged: {shown}')


def _heeded(config: ml_collections.ConfigDict) -> cells_lib.Fields:
  """Returns the fields that a run does not ignore, by dotted name."""
  fields = workdir_lib.flatten(config)
  ignored: tuple[str, ...] = ()
  if fields.get('method.name') == 'sgd':  # it perturbs nothing
    ignored += ('m',)
  if fields.get('mixing.name') == 'none':
    ignored += ('mixing.alpha', 'mixing.probability')
  return {k: v for k, v in fields.items() if k not in ignored}


def own_name(name: str) -> str:
  """Returns what a field of another run is called in that run.

  Example:
    >>> own_name('labels_from.method.rho')
    'method.rho'
  """
  while name.startswith(tuple(f'{source}.' for source in workdir_lib.SOURCES)):
    name = name.partition('.')[2]
  return name


def is_within(name: str, *sections: str) -> bool:
  """Returns whether a field is one of some fields, or in one of some sections.

  Example:
    >>> is_within('data.name', 'data', 'm'), is_within('model.name', 'm')
    (True, False)
  """
  return any(name == s or name.startswith(f'{s}.') for s in sections)

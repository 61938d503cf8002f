"""Settings: the finished runs that differ in nothing but their seed.

Which fields tell the settings of a sweep apart follows from the configs of its
runs.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from sam_jax import tasks
from sam_jax.runs import workdir as workdir_lib
from sam_jax.sweeps import cells as cells_lib, results, statistics

# Keys of result.json. Numbers of runs that differ in one of them cannot be
# compared without care.
_VERSIONS = ('git_commit', 'versions', 'device')

_SHOWN_OF_METHODS = ('method.name', 'method.rho')


@dataclasses.dataclass(frozen=True)
class Setting:
  """Replicas: runs of the same fields with seeds of their own.

  Attributes:
    fields: those that tell this setting from the others.
    runs: one for each seed.
    shown: the fields for people. A field that is another run says in which
      fields that run differs from this one, 'same' if in none.
    repeated: further runs of the same seeds, which add nothing; each with the
      run of that seed that counts.
  """

  fields: cells_lib.Fields
  runs: tuple[results.FinishedRun, ...]
  shown: cells_lib.Fields
  repeated: tuple[tuple[results.FinishedRun, results.FinishedRun], ...] = ()

  @property
  def split(self) -> str:
    """What the runs were evaluated on: 'validation' or 'test'."""
    return self.runs[0].split

  @property
  def score(self) -> tasks.Score:
    """The metric by which the runs are compared with others."""
    return self.runs[0].score

  @property
  def method(self) -> str:
    """The name of the method."""
    return self.runs[0].fields['method.name']

  @property
  def data(self) -> str:
    """The name of the data set."""
    run = self.runs[0]  # its fields may be those of a cell, and not all
    return run.fields.get('data.name') or run.result.get('data', '')

  def estimate(self, key: str) -> statistics.Estimate:
    """Returns mean and confidence interval of a number of result.json."""
    return statistics.estimate([run.result[key] for run in self.runs])

  def final(self, metric: str) -> statistics.Estimate | None:
    """Returns those of any metric of the last evaluation, None without it."""
    values = [run.final(metric) for run in self.runs]
    known = [value for value in values if value is not None]
    return statistics.estimate(known) if len(known) == len(values) else None


def group(
  runs: Iterable[results.FinishedRun], replicas: Sequence[str] = ('seed',)
) -> list[Setting]:
  """Returns the settings of some runs, in the order in which they first come.

  Args:
    runs: finished ones.
    replicas: names of the fields that tell replicas apart.
  """
  runs = list(runs)
  names = varying(runs, replicas)
  members: dict[str, list[results.FinishedRun]] = {}
  for run in runs:
    members.setdefault(repr([run.fields.get(n) for n in names]), []).append(run)
  return [_setting(same, names, replicas) for same in members.values()]


def varying(
  runs: Sequence[results.FinishedRun], replicas: Sequence[str]
) -> list[str]:
  """Returns the fields that differ between runs and change what they find."""
  names = {name: None for run in runs for name in run.fields}
  return [
    name
    for name in names
    if results.own_name(name) not in replicas
    and not workdir_lib.is_operational(results.own_name(name))
    and len({repr(r.fields[name]) for r in runs if name in r.fields}) > 1
    and not _follows_from_method(name, runs)
  ]


def _follows_from_method(
  name: str, runs: Sequence[results.FinishedRun]
) -> bool:
  """Whether a field only differs between methods, which do not all have it.

  rho is shown all the same: it is what readers look for.
  """
  own = results.own_name(name)
  if not results.is_within(own, 'method') or own in _SHOWN_OF_METHODS:
    return False
  method = name.removesuffix(own) + 'method.name'
  found: dict[object, set[str]] = {}
  for run in runs:
    values = found.setdefault(run.fields.get(method), set())
    values.add(repr(run.fields.get(name)))
  return all(len(values) == 1 for values in found.values())


def _setting(
  members: Sequence[results.FinishedRun],
  names: Sequence[str],
  replicas: Sequence[str],
) -> Setting:
  """Returns the setting of runs that differ in nothing but their replica."""
  first: dict[str, results.FinishedRun] = {}
  repeated = []
  for run in members:
    # The run that one starts from may have a seed of its own.
    replica = repr(
      {k: v for k, v in run.fields.items() if results.own_name(k) in replicas}
    )
    counted = first.setdefault(replica, run)
    if counted is not run:
      repeated.append((run, counted))
  fields = {name: members[0].fields.get(name) for name in names}
  return Setting(
    fields,
    tuple(first.values()),
    _shown(fields, members[0], replicas),
    tuple(repeated),
  )


def _shown(
  fields: cells_lib.Fields, run: results.FinishedRun, replicas: Sequence[str]
) -> cells_lib.Fields:
  """Returns the fields of a setting for people."""
  shown = {k: v for k, v in fields.items() if k == results.own_name(k)}
  for source in workdir_lib.SOURCES:
    is_told_apart = any(results.is_within(name, source) for name in fields)
    if run.fields.get(source) == results.A_RUN and is_told_apart:
      shown[source] = str(cells_lib.Like(_differences(run, source, replicas)))
  return shown


def _differences(
  run: results.FinishedRun, source: str, replicas: Sequence[str]
) -> cells_lib.Fields:
  """Returns in which fields the run that one starts from differs from it."""
  prefix = f'{source}.'
  ignored = (*replicas, *workdir_lib.SOURCES)
  return {
    name.removeprefix(prefix): value
    for name, value in sorted(run.fields.items())
    if name.startswith(prefix)
    and value != run.fields.get(name.removeprefix(prefix))
    and results.own_name(name) not in ignored
    and not workdir_lib.is_operational(results.own_name(name))
  }


def mixed(setting: Setting) -> list[str]:
  """Returns in which of code, versions and device the runs differ.

  A run that was resumed with other versions differs from itself.
  """
  starts = [
    start
    for run in setting.runs
    for start in run.result.get('starts', [run.result])
  ]
  return [
    name
    for name in _VERSIONS
    if len({repr(start.get(name)) for start in starts}) > 1
  ]


def curve(
  setting: Setting, key: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns epochs, mean and half width of a logged number along the runs.

  Args:
    setting: whose runs to average over.
    key: of the lines of metrics.jsonl, such as 'test/error_rate'.
  """
  by_epoch: dict[float, list[float]] = {}
  for run in setting.runs:
    for epoch, value in run.curve(key).items():
      by_epoch.setdefault(epoch, []).append(value)
  epochs = sorted(by_epoch)
  found = [statistics.estimate(by_epoch[epoch]) for epoch in epochs]
  return (
    np.array(epochs),
    np.array([e.mean for e in found]),
    np.array([e.half_width for e in found]),
  )

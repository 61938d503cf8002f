"""Results of measurements, each in a JSON file of its run: measured once.

The file is RUN/analysis/NAME-STEP-DIGEST.json, whose digest tells the weights,
the examples and the options from others. The pieces of an interrupted
measurement are beside it.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np

from sam_jax.analysis import measurements, pass_bar, store, terms, trained
from sam_jax.runs import files, lock, provenance

_PIECES = '.pieces'
_COMMON = ('split', 'examples', 'batch_norm', 'microbatch_size', 'seed')


class Subject(NamedTuple):
  """What a measurement is made of.

  Attributes:
    label: of the result, in the table and the picture.
    workdir: run directory that the result goes to.
    models: as many as the measurement takes.
  """

  label: str
  workdir: pathlib.Path
  models: Sequence[trained.Trained]


def subjects(
  name: str,
  workdirs: Sequence[pathlib.Path],
  load: Callable[[pathlib.Path], trained.Trained],
) -> list[Subject]:
  """Returns what is measured: every run, or the way from one to another.

  Args:
    name: of the measurement.
    workdirs: run directories.
    load: loads the model of one.

  Raises:
    ValueError: there are too few or too many runs, or one cannot be loaded.
  """
  is_pair = measurements.BY_NAME[name].num_models == 2
  if not workdirs or (is_pair and len(workdirs) != 2):
    wanted = 'twice' if is_pair else 'once or several times'
    raise ValueError(f'give --workdir {wanted}; got {len(workdirs)}')
  models = [load(workdir) for workdir in workdirs]
  labels = [workdir.name for workdir in workdirs]
  if len(set(labels)) < len(labels):
    labels = [str(workdir) for workdir in workdirs]
  if is_pair:
    return [Subject(' to '.join(labels), workdirs[0], models)]
  return [
    Subject(label, workdir, [model])
    for label, workdir, model in zip(labels, workdirs, models, strict=True)
  ]


class Found(NamedTuple):
  """A result and where it is.

  Attributes:
    path: of its file.
    result: of the measurement.
    is_kept: whether it had been measured before.
  """

  path: pathlib.Path
  result: terms.Result
  is_kept: bool


def measure(
  name: str,
  subject: Subject,
  shown: pass_bar.Plan | pass_bar.PassBar,
  options: terms.Options,
) -> Found:
  """Returns a result: read, or computed.

  Args:
    name: of the measurement.
    subject: what is measured.
    shown: the plan of the measurement, for a bar of its own; or the bar of all
      that is measured, which is told of the passes. Nothing else is printed
      then.
    options: of the measurement.

  Raises:
    ValueError: another process is measuring it.
  """
  identity = _identity(name, subject, options)
  path = _path(subject, identity)
  is_kept = path.exists()
  if not is_kept:
    with lock.hold(path.with_suffix(_PIECES), 'analysis'):
      _measure_once(name, subject, shown, options, path, identity)
  if not isinstance(shown, pass_bar.PassBar):
    print(f'{path}: measured already' if is_kept else path)
  result = json.loads(path.read_text('utf-8'))['result']
  return Found(path, result, is_kept)


def _measure_once(
  name: str,
  subject: Subject,
  shown: pass_bar.Plan | pass_bar.PassBar,
  options: terms.Options,
  path: pathlib.Path,
  identity: Mapping[str, Any],
) -> None:
  """Computes a result and writes it, unless another process just has."""
  if path.exists():
    return
  with contextlib.ExitStack() as stack:
    if isinstance(shown, pass_bar.PassBar):
      bar, pieces = shown, store.Store(path.with_suffix(_PIECES))
    else:
      bar = pass_bar.PassBar(f'{subject.workdir.name}: {name}', shown)
      stack.callback(bar.close)
      pieces = store.Store(path.with_suffix(_PIECES), bar.piece)
    measurement = measurements.BY_NAME[name]
    result = _plain(
      measurement.measure(subject.models, options, pieces, bar.passed)
    )
  versions = {name: metadata.version(name) for name in ('matfree', 'scipy')}
  content = {**identity, 'result': result, **provenance.describe()}
  content['versions'] |= versions
  files.write_json(path, content)
  pieces.clear()


def _identity(
  name: str, subject: Subject, options: terms.Options
) -> dict[str, Any]:
  """Returns what a result depends on."""
  chosen = (*_COMMON, *measurements.BY_NAME[name].options)
  given = dataclasses.asdict(options)
  return {
    'version': measurements.BY_NAME[name].version,
    'command': name,
    'checkpoint': subject.models[0].step,
    'options': {option: given[option] for option in chosen},
    'weights_and_data': [model.digest() for model in subject.models],
  }


def _path(subject: Subject, identity: Mapping[str, Any]) -> pathlib.Path:
  """Returns the file of a result."""
  digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
  stem = f'{identity["command"]}-{identity["checkpoint"]}-{digest[:8]}'
  return subject.workdir / 'analysis' / f'{stem}.json'


def picture_path(paths: Sequence[pathlib.Path]) -> pathlib.Path:
  """Returns where the picture of some results goes."""
  if len(paths) == 1:
    return paths[0].with_suffix('.png')
  names = hashlib.sha256(' '.join(map(str, paths)).encode()).hexdigest()
  return paths[0].with_name(f'{paths[0].stem}-and-{names[:4]}.png')


def table(name: str, results: Mapping[str, terms.Result]) -> str:
  """Returns the numbers of each result, by label, as a table."""
  columns = measurements.BY_NAME[name].columns
  rows = {label: columns(result) for label, result in results.items()}
  width = max(len(label) for label in rows)
  header = next(iter(rows.values()))
  lines = ['  '.join([' ' * width, *header])]
  for label, row in rows.items():
    cells = (f'{row[column]:{len(column)}.4g}' for column in header)
    lines.append('  '.join([label.ljust(width), *cells]))
  return '\n'.join(lines)


def _plain(value: Any) -> Any:
  """Returns what JSON has: lists for arrays, None for NaN."""
  if isinstance(value, dict):
    return {key: _plain(child) for key, child in value.items()}
  if isinstance(value, np.ndarray):
    return _plain(value.tolist())
  if isinstance(value, list):
    return [_plain(child) for child in value]
  if isinstance(value, float) and math.isnan(value):
    return None
  return value

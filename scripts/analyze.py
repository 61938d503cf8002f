"""Measures and draws how sharp the minimum is that a run has found.

    python scripts/analyze.py hessian --workdir=runs/sgd --workdir=runs/sam
    python scripts/analyze.py sharpness --workdir=runs/sam --m=32 --rho=0.05
    python scripts/analyze.py landscape --workdir=runs/sgd --workdir=runs/sam
    python scripts/analyze.py interpolate --workdir=runs/sgd --workdir=runs/sam

hessian: the largest eigenvalues, the trace, the spectral density. sharpness:
how much the loss of m examples rises within a ball, by one ascent step (the
paper's), by projected gradient ascent, and in random directions. landscape: the
loss on a line or in a plane. interpolate: the loss between two runs.

The loss is the cross entropy on --split, without weight decay, smoothing,
augmentation and dropout. Each run gets a JSON file in its directory under
analysis/, the first one a picture of all of them on the same axes. The same
command goes on with an interrupted analysis, and repeats no finished one.
"""

import hashlib
import json
import math
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags, logging
from jax import flatten_util

# The checkout goes first, installed or not.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from sam_jax import analysis
from sam_jax.analysis import pictures, progress as progress_lib, trained
from sam_jax.runs import provenance, workdir as workdir_lib

_WORKDIR = flags.DEFINE_multi_string(
  'workdir', None, 'Run directory; several of them share a picture.'
)
_CHECKPOINT = flags.DEFINE_string(
  'checkpoint', 'last', "'last', 'best', or a step."
)
_SPLIT = flags.DEFINE_enum(
  'split', 'train', trained.SPLITS, 'Examples that the loss is the mean over.'
)
_EXAMPLES = flags.DEFINE_integer(
  'examples', None, 'How many of them at most, the same for every run.'
)
_BATCH_NORM = flags.DEFINE_enum(
  'batch_norm',
  'running',
  trained.BATCH_NORMS,
  'Normalise by running statistics, as in evaluation, or by microbatches.',
)
_MICROBATCH = flags.DEFINE_integer(
  'microbatch_size', None, 'Examples per forward pass of a device.'
)
_SEED = flags.DEFINE_integer('seed', 0, 'Of probes, groups and directions.')
_OUTPUT = flags.DEFINE_string(
  'output', None, 'The picture, .png. Default: beside the first JSON file.'
)
_K = flags.DEFINE_integer('k', 5, 'hessian: eigenvalues.')
_TRACE_PROBES = flags.DEFINE_integer(
  'trace_probes', 100, 'hessian: probes of the trace.'
)
_PROBES = flags.DEFINE_integer('probes', 2, 'hessian: of the density.')
_LANCZOS_STEPS = flags.DEFINE_integer(
  'lanczos_steps', 80, 'hessian: products per probe of the density.'
)
_M = flags.DEFINE_integer('m', None, "sharpness: m; default the run's own.")
_RHO = flags.DEFINE_float('rho', 0.05, 'sharpness: radius.')
_NORM = flags.DEFINE_enum('norm', 'l2', ['l2', 'linf'], 'sharpness: ball.')
_ADAPTIVE = flags.DEFINE_bool(
  'adaptive', False, 'sharpness: stretch the ball by |w| + eta.'
)
_ETA = flags.DEFINE_float('eta', 0.0, 'sharpness: of the adaptive ball.')
_ASCENT_STEPS = flags.DEFINE_integer(
  'ascent_steps', 10, 'sharpness: steps of projected ascent.'
)
_RESTARTS = flags.DEFINE_integer(
  'restarts', 1, 'sharpness: starts of projected ascent.'
)
_SAMPLES = flags.DEFINE_integer(
  'samples', 4, 'sharpness: random directions per group.'
)
_GROUPS = flags.DEFINE_integer(
  'groups', None, 'sharpness: groups at most; default all.'
)
_ALONG = flags.DEFINE_enum(
  'along',
  'random',
  ['random', 'eigenvectors'],
  'landscape: random directions, in the scale of the filters, or those of the '
  "Hessian's largest eigenvalues, of length 1.",
)
_DIMENSIONS = flags.DEFINE_integer(
  'dimensions', 2, 'landscape: a line or a plane.', 1, 2
)
_EXTENT = flags.DEFINE_float(
  'extent', 1.0, 'landscape: how far to go along the directions.'
)
_MARGIN = flags.DEFINE_float(
  'margin', 0.25, 'interpolate: how far to go beyond the two runs.'
)
_POINTS = flags.DEFINE_integer(
  'points', 25, 'landscape, interpolate: points of a line.', lower_bound=2
)

_COMMON = (_SPLIT, _EXAMPLES, _BATCH_NORM, _MICROBATCH, _SEED)
# ARPACK takes a few dozen products as a rule: a guess, for the time left.
_EIGENPAIRS_COST = 60

# Raised where a measure changes, so that no older result stands for it.
_VERSION = 2

Result = dict[str, Any]
Plan = Mapping[str, tuple[int, float]]


class Command(NamedTuple):
  """What can be measured.

  Attributes:
    options: flags that the result depends on.
    plan: `(model) -> plan`, see `progress.Progress`; refuses an m that does not
      fit.
    measure: `(models, store, progress) -> result`; the first model is the one
      that the result is of.
    draw: `(path, results by label)`.
    columns: numbers of the result for the table, by name.
  """

  options: Sequence[flags.FlagHolder]
  plan: Callable[[analysis.Trained], Plan]
  measure: Callable[..., Result]
  draw: Callable[..., None]
  columns: Callable[[Result], dict[str, float]]


def main(argv: Sequence[str]) -> None:
  if not logging.get_verbosity():  # the libraries' chatter, unless asked for
    logging.set_verbosity(logging.WARNING)
  try:
    _run(argv)
  except (ValueError, OSError) as error:
    print(f'analyze: {" ".join(str(error).split())}', file=sys.stderr)
    sys.exit(2)


def _run(argv: Sequence[str]) -> None:
  """Does what the flags say; raises if it cannot be done."""
  if len(argv) != 2 or argv[1] not in _COMMANDS:
    raise ValueError(
      f'give one of the commands {", ".join(_COMMANDS)}; got '
      f'{" ".join(argv[1:]) or "none"}'
    )
  command = argv[1]
  workdirs = [pathlib.Path(name) for name in _WORKDIR.value or ()]
  if not workdirs or (command == 'interpolate' and len(workdirs) != 2):
    wanted = 'twice' if command == 'interpolate' else 'once or several times'
    raise ValueError(f'give --workdir {wanted}; got {len(workdirs)}')
  if _OUTPUT.value and not _OUTPUT.value.endswith('.png'):
    raise ValueError(f'--output is {_OUTPUT.value}; it must end in .png')
  # What is wrong with any of them is found before the first is measured.
  models = [_load(workdir) for workdir in workdirs]
  plans = [_COMMANDS[command].plan(model) for model in models]
  labels = [workdir.name for workdir in workdirs]
  if len(set(labels)) < len(labels):
    labels = [str(workdir) for workdir in workdirs]
  results = {}
  subjects = list(zip(labels, workdirs, models, plans, strict=True))
  if command == 'interpolate':
    label = ' to '.join(labels)
    subjects = [(label, workdirs[0], models[0], plans[0])]
  paths = []
  for label, workdir, model, plan in subjects:
    others = models[1:] if command == 'interpolate' else []
    path, results[label] = _measure(command, workdir, [model, *others], plan)
    paths.append(path)
  _print_table(results, _COMMANDS[command].columns)
  picture = pathlib.Path(_OUTPUT.value or _picture_path(paths))
  _COMMANDS[command].draw(picture, results)
  print(picture)


def _load(workdir: pathlib.Path) -> analysis.Trained:
  """Loads the checkpoint of a run that the flags name."""
  name = _CHECKPOINT.value
  return analysis.load(
    workdir,
    int(name) if name.isdigit() else name,
    split=_SPLIT.value,
    num_examples=_EXAMPLES.value,
    batch_norm=_BATCH_NORM.value,
    microbatch_size=_MICROBATCH.value,
  )


def _measure(
  command: str,
  workdir: pathlib.Path,
  models: Sequence[analysis.Trained],
  plan: Plan,
) -> tuple[pathlib.Path, Result]:
  """Returns the JSON file of a result, and the result: read, or computed."""
  chosen = _COMMANDS[command]
  options = {flag.name: flag.value for flag in (*_COMMON, *chosen.options)}
  identity = {
    'version': _VERSION,
    'command': command,
    'checkpoint': models[0].step,
    'options': options,
    'weights_and_data': [model.digest() for model in models],
  }
  digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
  name = f'{command}-{models[0].step}-{digest[:8]}'
  path = workdir / 'analysis' / f'{name}.json'
  if path.exists():
    print(f'{path}: measured already')
    return path, json.loads(path.read_text('utf-8'))['result']
  bar = progress_lib.Progress(f'{workdir.name}: {command}', plan)
  store = progress_lib.Store(path.with_name(f'{name}.pieces'), bar)
  try:
    result = _plain(chosen.measure(models, store, bar))
  finally:
    bar.close()
  path.parent.mkdir(exist_ok=True)
  versions = {name: metadata.version(name) for name in ('matfree', 'scipy')}
  content = {**identity, 'result': result, **provenance.describe()}
  content['versions'] |= versions
  workdir_lib.write_json(path, content)
  store.clear()
  print(path)
  return path, result


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


def _picture_path(paths: Sequence[pathlib.Path]) -> pathlib.Path:
  """Returns where the picture of some results goes."""
  if len(paths) == 1:
    return paths[0].with_suffix('.png')
  names = hashlib.sha256(' '.join(map(str, paths)).encode()).hexdigest()
  return paths[0].with_name(f'{paths[0].stem}-and-{names[:4]}.png')


def _print_table(
  results: Mapping[str, Result],
  columns: Callable[[Result], dict[str, float]],
) -> None:
  """Prints the numbers of each run."""
  rows = {label: columns(result) for label, result in results.items()}
  width = max(len(label) for label in rows)
  header = next(iter(rows.values()))
  print('  '.join([' ' * width, *header]))
  for label, row in rows.items():
    cells = (f'{row[name]:{len(name)}.4g}' for name in header)
    print('  '.join([label.ljust(width), *cells]))


# --- Hessian -----------------------------------------------------------------


def _hessian_plan(model: analysis.Trained) -> Plan:
  del model
  return {
    'eigenpairs': (1, _EIGENPAIRS_COST),
    'trace': (_TRACE_PROBES.value, 1),
    'spectrum': (_PROBES.value, _LANCZOS_STEPS.value),
  }


def _hessian(
  models: Sequence[analysis.Trained],
  store: progress_lib.Store,
  bar: progress_lib.Progress,
) -> Result:
  """Measures the spectrum of the Hessian."""
  params = models[0].params
  objective = models[0].objective(on_pass=bar.passed)
  values, _ = _eigenpairs(objective, params, _K.value, store)
  seed = _SEED.value
  trace = analysis.trace(
    objective, params, _TRACE_PROBES.value, seed=seed, unit=store
  )
  spectrum = analysis.spectrum(
    objective,
    params,
    num_probes=_PROBES.value,
    num_steps=_LANCZOS_STEPS.value,
    seed=seed,
    unit=store,
  )
  return {
    'parameters': provenance.count_parameters(params),
    'eigenvalues': values,
    'trace': trace.mean,
    'trace_standard_error': trace.standard_error,
    **spectrum._asdict(),
  }


def _eigenpairs(
  objective: analysis.Objective,
  params: Any,
  k: int,
  store: progress_lib.Store,
) -> tuple[np.ndarray, list[Any]]:
  """Returns the largest eigenvalues and their vectors, kept in the store."""
  _, unravel = flatten_util.ravel_pytree(params)

  def compute() -> dict[str, np.ndarray]:
    found = analysis.top_eigenpairs(objective, params, k, seed=_SEED.value)
    flat = [flatten_util.ravel_pytree(v)[0] for v in found.vectors]
    return {'values': found.values, 'vectors': np.stack(flat)}

  found = store('eigenpairs', compute)
  return found['values'], [unravel(v) for v in found['vectors']]


def _hessian_columns(result: Result) -> dict[str, float]:
  values = result['eigenvalues']
  columns = {'lambda_max': values[0]}
  if len(values) >= 5:
    columns['lambda_max/lambda_5'] = values[0] / values[4]
  error = result['trace_standard_error']
  columns |= {'trace': result['trace']}
  return columns if error is None else columns | {'+- of trace': error}


# --- m-sharpness -------------------------------------------------------------


def _m(model: analysis.Trained) -> int:
  return _M.value or model.config.m


def _model_groups(model: analysis.Trained) -> list[Any]:
  return model.groups(_m(model), seed=_SEED.value, max_groups=_GROUPS.value)


def _sharpness_plan(model: analysis.Trained) -> Plan:
  count = len(_model_groups(model))
  ascents = _RESTARTS.value * (_ASCENT_STEPS.value + 1)
  return {
    'one-worst': (count, 2),
    'ascent-worst': (count, ascents),
    'random-average': (count, 1 + _SAMPLES.value),
  }


def _sharpness(
  models: Sequence[analysis.Trained],
  store: progress_lib.Store,
  bar: progress_lib.Progress,
) -> Result:
  """Measures m-sharpness, by three measures on the same groups."""
  model = models[0]
  ball = analysis.Ball(
    _RHO.value,
    math.inf if _NORM.value == 'linf' else 2.0,
    _ETA.value if _ADAPTIVE.value else None,
  )
  objective = model.objective(group_size=_m(model), on_pass=bar.passed)
  groups = _model_groups(model)
  given = (objective, model.params, groups, ball)

  def unit(prefix: str) -> Any:
    return lambda name, fn: store(f'{prefix}-{name}', fn)

  found = {
    'one_ascent_step': analysis.worst_case(*given, unit=unit('one')),
    'projected_ascent': analysis.worst_case(
      *given,
      steps=_ASCENT_STEPS.value,
      restarts=_RESTARTS.value,
      seed=_SEED.value,
      unit=unit('ascent'),
    ),
    'random_directions': analysis.average_case(
      *given,
      num_samples=_SAMPLES.value,
      seed=_SEED.value,
      unit=unit('random'),
    ),
  }
  measures = {name: value._asdict() for name, value in found.items()}
  return {'m': _m(model), 'num_groups': len(groups), 'measures': measures}


def _sharpness_columns(result: Result) -> dict[str, float]:
  means = {name: f['mean'] for name, f in result['measures'].items()}
  return {'m': result['m'], 'groups': result['num_groups'], **means}


def _draw_sharpness(path: pathlib.Path, results: Mapping[str, Result]) -> None:
  pictures.sharpness(path, {k: r['measures'] for k, r in results.items()})


# --- Slices ------------------------------------------------------------------


def _landscape_plan(model: analysis.Trained) -> Plan:
  del model
  rows = (_POINTS.value, _POINTS.value ** (_DIMENSIONS.value - 1))
  if _ALONG.value == 'random':
    return {'row': rows}
  return {'eigenpairs': (1, _EIGENPAIRS_COST), 'row': rows}


def _landscape(
  models: Sequence[analysis.Trained],
  store: progress_lib.Store,
  bar: progress_lib.Progress,
) -> Result:
  """Measures the loss on a line or in a plane around the parameters."""
  params, count = models[0].params, _DIMENSIONS.value
  objective = models[0].objective(on_pass=bar.passed)
  if _ALONG.value == 'random':
    seeds = [2 * _SEED.value + i for i in range(count)]
    directions = [analysis.random_direction(params, seed) for seed in seeds]
  else:
    _, directions = _eigenpairs(objective, params, count, store)
  coordinates = np.linspace(-_EXTENT.value, _EXTENT.value, _POINTS.value)
  losses = analysis.scan(objective, params, directions, coordinates, unit=store)
  return {'coordinates': coordinates, 'loss': losses}


def _draw_landscape(path: pathlib.Path, results: Mapping[str, Result]) -> None:
  axis = 'eigenvector' if _ALONG.value == 'eigenvectors' else 'direction'
  if _DIMENSIONS.value == 1:
    pictures.lines(path, results, f'along {axis} 1')
  else:
    pictures.planes(path, results, axis)


def _interpolate(
  models: Sequence[analysis.Trained],
  store: progress_lib.Store,
  bar: progress_lib.Progress,
) -> Result:
  """Measures the loss between two runs, on the examples of the first."""
  first, second = models
  fractions = np.linspace(-_MARGIN.value, 1 + _MARGIN.value, _POINTS.value)
  losses = analysis.interpolate(
    first.objective(first.loss, on_pass=bar.passed),
    first.variables,
    second.variables,
    fractions,
    unit=store,
  )
  return {'coordinates': fractions, 'loss': losses}


def _draw_interpolation(
  path: pathlib.Path, results: Mapping[str, Result]
) -> None:
  pictures.lines(path, results, 'fraction of the way')


def _slice_columns(result: Result) -> dict[str, float]:
  # JSON has no NaN: what is not a number is None there.
  losses = np.array(result['loss'], float)
  numbers = losses[~np.isnan(losses)]
  if not numbers.size:
    return dict.fromkeys(('lowest loss', 'highest loss'), np.nan)
  return {'lowest loss': numbers.min(), 'highest loss': numbers.max()}


_COMMANDS = {
  'hessian': Command(
    (_K, _TRACE_PROBES, _PROBES, _LANCZOS_STEPS),
    _hessian_plan,
    _hessian,
    pictures.spectra,
    _hessian_columns,
  ),
  'sharpness': Command(
    (
      *(_M, _RHO, _NORM, _ADAPTIVE, _ETA),
      *(_ASCENT_STEPS, _RESTARTS, _SAMPLES, _GROUPS),
    ),
    _sharpness_plan,
    _sharpness,
    _draw_sharpness,
    _sharpness_columns,
  ),
  'landscape': Command(
    (_ALONG, _DIMENSIONS, _EXTENT, _POINTS),
    _landscape_plan,
    _landscape,
    _draw_landscape,
    _slice_columns,
  ),
  'interpolate': Command(
    (_MARGIN, _POINTS),
    lambda model: {'row': (_POINTS.value, 1)},
    _interpolate,
    _draw_interpolation,
    _slice_columns,
  ),
}


if __name__ == '__main__':
  app.run(main)

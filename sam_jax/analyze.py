"""Measures and draws how sharp the minimum is that a run has found.

    python -m sam_jax.analyze hessian --workdir=runs/sgd --workdir=runs/sam
    python -m sam_jax.analyze sharpness --workdir=runs/sam --m=32 --rho=0.05
    python -m sam_jax.analyze landscape --workdir=runs/sgd --workdir=runs/sam
    python -m sam_jax.analyze interpolate --workdir=runs/sgd --workdir=runs/sam
    python -m sam_jax.analyze evaluation --workdir=runs/sgd --workdir=runs/sam

hessian: the largest eigenvalues (and with --k_smallest the smallest), the
trace, the spectral density. sharpness: by how much the loss of m examples rises
within a ball, by one ascent step (the paper's measure), by projected gradient
ascent, and in random directions. landscape: the loss on a line or in a plane.
interpolate: the loss and the score between two runs. evaluation: both of a run.

The loss is that of the task on --split, without weight decay, label smoothing,
augmentation and dropout. Each run gets a JSON file in its directory under
analysis/, the first run also a picture that shows all of them on the same axes.
The same command resumes an interrupted analysis, and repeats no finished one.

Exit status: 0 done, 2 something is wrong with the flags or with a run.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sam_jax import _cli

if TYPE_CHECKING:
  from sam_jax.analysis import terms, trained

flags = _cli.Flags()
_WORKDIR = flags.DEFINE_multi_string(
  'workdir',
  None,
  'Run directory, or the name of a run that comes with the package. Give the '
  'flag several times to draw several runs in one picture.',
)
_CHECKPOINT = flags.DEFINE_string(
  'checkpoint', 'last', "'last', 'best', or a step."
)
_OUTPUT = flags.DEFINE_string(
  'output', None, 'The picture, .png. Default: beside the first JSON file.'
)
_NO_PLUGINS = _cli.define_no_plugins(flags)

# The other flags are the fields of terms.Options.
flags.DEFINE_enum(
  'split',
  'train',
  ['train', 'validation', 'test'],
  'Examples over which the loss is averaged.',
)
flags.DEFINE_integer(
  'examples', None, 'Number of examples at most, the same for every run.'
)
flags.DEFINE_enum(
  'batch_norm',
  'running',
  ['running', 'batch'],
  'BatchNorm normalises by running statistics, as in an evaluation, or by '
  'those of each microbatch.',
)
flags.DEFINE_integer(
  'microbatch_size', None, 'Examples per forward pass of a device.'
)
flags.DEFINE_integer('seed', 0, 'Seed of probes, groups and directions.')
flags.DEFINE_integer('k', 5, 'hessian: number of the largest eigenvalues.')
flags.DEFINE_integer(
  'k_smallest',
  0,
  'hessian: number of the smallest eigenvalues; at a saddle they are negative.',
  lower_bound=0,
)
flags.DEFINE_integer('trace_probes', 100, 'hessian: probes of the trace.')
flags.DEFINE_integer('probes', 2, 'hessian: probes of the spectral density.')
flags.DEFINE_integer(
  'lanczos_steps', 80, 'hessian: products per probe of the density.'
)
flags.DEFINE_integer(
  'm', None, "sharpness: examples in a group. Default: the run's m."
)
flags.DEFINE_float('rho', 0.05, 'sharpness: radius of the ball.')
flags.DEFINE_enum('norm', 'l2', ['l2', 'linf'], 'sharpness: norm of the ball.')
flags.DEFINE_bool(
  'adaptive', False, 'sharpness: stretch the ball by |w| + eta.'
)
flags.DEFINE_float('eta', 0.0, 'sharpness: eta of the adaptive ball.')
flags.DEFINE_integer(
  'ascent_steps',
  10,
  'sharpness: steps of projected gradient ascent; 0 leaves it out.',
  lower_bound=0,
)
flags.DEFINE_integer(
  'restarts', 1, 'sharpness: starts of projected gradient ascent.'
)
flags.DEFINE_integer(
  'samples',
  4,
  'sharpness: random directions per group; 0 leaves them out.',
  lower_bound=0,
)
flags.DEFINE_integer(
  'groups', None, 'sharpness: largest number of groups. Default: all.'
)
flags.DEFINE_enum(
  'along',
  'random',
  ['random', 'eigenvectors'],
  'landscape: random directions, in the scale of the filters, or the '
  "eigenvectors of the Hessian's largest eigenvalues, of length 1.",
)
flags.DEFINE_integer('dimensions', 2, 'landscape: 1 a line, 2 a plane.', 1, 2)
flags.DEFINE_float(
  'extent', 1.0, 'landscape: how far to go along the directions.'
)
flags.DEFINE_float(
  'margin', 0.25, 'interpolate: how far to go beyond the two runs.'
)
flags.DEFINE_integer(
  'points',
  25,
  'landscape, interpolate: number of points in each direction.',
  lower_bound=2,
)


def main(argv: Sequence[str]) -> None:
  """Does what the flags say; raises if it cannot be done."""
  from sam_jax.runs import ambient

  with ambient.pinned():
    _analyze(argv)


def _analyze(argv: Sequence[str]) -> None:
  """Measures, and draws."""
  from sam_jax.analysis import measurements, result_files
  from sam_jax.runs import files, shipped

  known = list(measurements.BY_NAME)
  if len(argv) != 2 or argv[1] not in known:
    raise ValueError(
      f'give one of the commands {", ".join(known)}; got '
      f'{" ".join(argv[1:]) or "none"}'
    )
  name, measurement = argv[1], measurements.BY_NAME[argv[1]]
  output = _OUTPUT.value
  picture = None if output is None else files.user_path(output)
  if picture and picture.suffix != '.png':
    raise ValueError(f'--output is {picture}; it must end in .png')
  if picture and not picture.parent.is_dir():
    raise ValueError(f'--output is {picture}; there is no such directory')
  options = _options()
  workdirs = [shipped.find(text) for text in _WORKDIR.value or ()]
  # What is wrong with any run is found before the first is measured.
  subjects = result_files.subjects(
    name, workdirs, functools.partial(_load, options=options)
  )
  plans = [measurement.plan(subject.models[0], options) for subject in subjects]
  paths, results = [], {}
  for subject, plan in zip(subjects, plans, strict=True):
    path, results[subject.label], _ = result_files.measure(
      name, subject, plan, options
    )
    paths.append(path)
  print(result_files.table(name, results))
  picture = picture or result_files.picture_path(paths)
  models = {subject.label: subject.models for subject in subjects}
  measurement.draw(picture, results, models, options)
  print(picture)


def _options() -> 'terms.Options':
  """Returns what the flags choose."""
  from sam_jax.analysis import terms

  fields = dataclasses.fields(terms.Options)
  given: dict[str, Any] = {f.name: flags.values[f.name].value for f in fields}
  return terms.Options(**given)


def _load(workdir: pathlib.Path, options: 'terms.Options') -> 'trained.Trained':
  """Loads the checkpoint of a run that the flags name."""
  from sam_jax.analysis import trained

  return trained.load(
    workdir,
    _cli.checkpoint(_CHECKPOINT.value),
    split=options.split,
    num_examples=options.examples,
    batch_norm=options.batch_norm,
    microbatch_size=options.microbatch_size,
    plugins=not _NO_PLUGINS.value,
  )


def cli() -> None:
  """Runs the command with the arguments of this process."""
  _cli.run(main, 'analyze', flags)


if __name__ == '__main__':
  cli()

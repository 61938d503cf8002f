"""What a measurement is, and what can be chosen about it."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sam_jax.analysis import pass_bar, trained, units

Result = dict[str, Any]
Models = Sequence[trained.Trained]
# ARPACK usually takes a few dozen products: a guess, for the time left.
EIGENPAIRS_COST = 60


@dataclasses.dataclass(frozen=True)
class Options:
  """What is chosen about a measurement.

  Attributes:
    split: see `trained.load`, also for the next three.
    examples: how many at most; None is all.
    batch_norm: what BatchNorm normalises by.
    microbatch_size: examples per forward pass of a device.
    seed: of probes, groups and directions.
    k: number of the largest eigenvalues.
    k_smallest: number of the smallest eigenvalues; 0 is none.
    trace_probes: probes of the trace.
    probes: probes of the spectral density.
    lanczos_steps: products per probe of the density.
    m: examples per group of the sharpness; None is the run's own.
    rho: radius of the ball.
    norm: of the ball, 'l2' or 'linf'.
    adaptive: whether to stretch the ball by |w| + eta.
    eta: of the adaptive ball.
    ascent_steps: steps of projected gradient ascent; 0 leaves it out.
    restarts: starts of projected gradient ascent.
    samples: random directions per group; 0 leaves them out.
    groups: groups at most; None is all.
    along: directions of the landscape, 'random' or 'eigenvectors'.
    dimensions: 1 for a line, 2 for a plane.
    extent: how far to go along the directions.
    margin: how far to go beyond the two runs that are interpolated.
    points: points of a line.
  """

  split: str = 'train'
  examples: int | None = None
  batch_norm: str = 'running'
  microbatch_size: int | None = None
  seed: int = 0
  k: int = 5
  k_smallest: int = 0
  trace_probes: int = 100
  probes: int = 2
  lanczos_steps: int = 80
  m: int | None = None
  rho: float = 0.05
  norm: str = 'l2'
  adaptive: bool = False
  eta: float = 0.0
  ascent_steps: int = 10
  restarts: int = 1
  samples: int = 4
  groups: int | None = None
  along: str = 'random'
  dimensions: int = 2
  extent: float = 1.0
  margin: float = 0.25
  points: int = 25


class Measurement(NamedTuple):
  """Something that can be measured.

  Attributes:
    options: names of the options that the result depends on, besides those of
      the examples.
    plan: `(model, options) -> plan`, for the time left; refuses an m that does
      not fit.
    measure: `(models, options, unit, on_pass) -> result`; the result belongs to
      the first model.
    draw: `(path, results by label, models by label, options)`.
    columns: the numbers of a result for the table, by name.
    num_models: how many models a result takes.
    version: of the measurement. It is raised when the result changes, so that
      no older result stands for it.
  """

  options: tuple[str, ...]
  plan: Callable[[trained.Trained, Options], pass_bar.Plan]
  measure: Callable[
    [Models, Options, units.Unit, Callable[[int], None]], Result
  ]
  draw: Callable[
    [pathlib.Path, Mapping[str, Result], Mapping[str, Models], Options], None
  ]
  columns: Callable[[Result], dict[str, float]]
  num_models: int = 1
  version: int = 2

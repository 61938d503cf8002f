"""Figures of several networks side by side: one scale for all of them."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_GRID = 600  # points of a density
_LEVELS = 24
_COLUMNS = 4  # planes beside each other
# What a run's JSON has under 'result', by the run's label.
Results = Mapping[str, Mapping[str, Any]]


def spectra(path: pathlib.Path, results: Results) -> None:
  """Draws spectral densities, one above the other, and their largest values.

  Args:
    path: of the PNG.
    results: with nodes and weights `[probes, steps]`, eigenvalues `[k]` and
      smallest_eigenvalues, perhaps none.
  """
  nodes = np.concatenate([np.ravel(r['nodes']) for r in results.values()])
  span = np.ptp(nodes) or 1.0
  low, high = nodes.min() - 0.05 * span, nodes.max() + 0.05 * span
  grid = np.linspace(low, high, _GRID)
  figure, rows = _figure(len(results), 1, (7, 0.6 + 2 * len(results)))
  for axes, (label, result) in zip(rows[:, 0], results.items(), strict=True):
    density = _density(result, grid, 0.005 * span)
    axes.fill_between(grid, np.maximum(density, 1e-8), 1e-8, alpha=0.5)
    values = result['eigenvalues']
    marked = [*values, *result['smallest_eigenvalues']]
    axes.plot(marked, np.full(len(marked), 3e-6), 'k|', markersize=10)
    axes.set(ylabel='density', yscale='log', ylim=(1e-6, None))
    axes.set_title(_spectrum_title(label, values), fontsize=9)
  top = max(axes.get_ylim()[1] for axes in rows[:, 0])
  for axes in rows[:, 0]:
    axes.set_ylim(1e-6, top)
  rows[-1, 0].set_xlabel('eigenvalue of the Hessian (|: those at its ends)')
  _save(figure, path)


def _density(
  result: Mapping[str, Any], grid: np.ndarray, width: float
) -> np.ndarray:
  """Returns the smeared density."""
  from sam_jax.analysis import hessian

  found = hessian.Spectrum(*(np.array(result[n]) for n in ('nodes', 'weights')))
  return found.density(grid, width)


def _spectrum_title(label: str, values: Sequence[float]) -> str:
  """Returns a run's name with its largest eigenvalue and ratio."""
  title = f'{label}: largest {values[0]:.3g}'
  if len(values) >= 5:
    title += f', {values[0] / values[4]:.2f} times the fifth'
  return title


def bars(path: pathlib.Path, results: Results, ylabel: str) -> None:
  """Draws a few numbers of each run, a panel for each number.

  Args:
    path: of the PNG.
    results: for each number mean and perhaps standard_error.
    ylabel: what the numbers are, '' if they are different things.
  """
  measures = list(next(iter(results.values())))
  figure, rows = _figure(1, len(measures), (3 * len(measures), 3.2))
  places = np.arange(len(results))
  for axes, measure in zip(rows[0], measures, strict=True):
    found = [result[measure] for result in results.values()]
    axes.bar(
      places,
      [f['mean'] for f in found],
      yerr=[f.get('standard_error') or 0 for f in found],
      color=[f'C{i}' for i in places],
      capsize=3,
    )
    axes.set_xticks(places, results, rotation=30, ha='right', fontsize=8)
    axes.set_title(measure.replace('_', ' '), fontsize=9)
  rows[0, 0].set_ylabel(ylabel)
  _save(figure, path)


def lines(path: pathlib.Path, results: Results, xlabel: str) -> None:
  """Draws losses along a line.

  Args:
    path: of the PNG.
    results: with coordinates and loss, both `[n]`.
    xlabel: what the coordinates are.
  """
  figure, rows = _figure(1, 1, (7, 4))
  for label, result in results.items():
    rows[0, 0].plot(result['coordinates'], result['loss'], label=label)
  rows[0, 0].set(xlabel=xlabel, ylabel='loss')
  rows[0, 0].grid(alpha=0.3)
  rows[0, 0].legend(fontsize=8)
  _save(figure, path)


def planes(path: pathlib.Path, results: Results, axis: str) -> None:
  """Draws losses in a plane, with one colour scale for all of them.

  Args:
    path: of the PNG.
    results: with coordinates `[n]` and loss `[n, n]`.
    axis: what the coordinates are.
  """
  from matplotlib import colors

  # What is not a number, None in JSON, is left white.
  losses = {k: np.array(r['loss'], float) for k, r in results.items()}
  values = np.concatenate([np.ravel(loss) for loss in losses.values()])
  finite = values[np.isfinite(values)]
  low = max(np.min(finite, initial=1e30), 1e-6)
  high = max(np.max(finite, initial=0), 2e-6)
  if high <= low:
    high = 2 * low
  levels = np.geomspace(low, high, _LEVELS)
  columns = min(len(results), _COLUMNS)
  num_rows = -(-len(results) // columns)
  size = (1 + 3.6 * columns, 3.6 * num_rows)
  figure, rows = _figure(num_rows, columns, size)
  used, unused = np.split(np.ravel(rows), [len(results)])
  for axes in unused:
    axes.remove()
  for axes, (label, result) in zip(used, results.items(), strict=True):
    along = result['coordinates']
    shown = axes.contourf(
      along,
      along,
      np.clip(np.transpose(losses[label]), low, high),
      levels=levels,
      norm=colors.LogNorm(low, high),
    )
    axes.plot(0, 0, 'w+')
    axes.tick_params(labelbottom=True)  # also above other planes
    axes.set(aspect='equal', xlabel=f'{axis} 1', ylabel=f'{axis} 2')
    axes.set_title(label, fontsize=9)
  bar = figure.colorbar(shown, ax=list(used), format='%.2g')
  bar.set_label('loss')
  _save(figure, path)


def _figure(rows: int, columns: int, size: tuple[float, float]) -> Any:
  """Returns a figure and its axes `[rows, columns]`, which share theirs."""
  import matplotlib

  matplotlib.use('agg')
  from matplotlib import pyplot as plt

  return plt.subplots(
    rows,
    columns,
    figsize=size,
    layout='constrained',
    squeeze=False,
    sharex=rows > 1,
  )


def _save(figure: Any, path: pathlib.Path) -> None:
  """Writes a picture."""
  from matplotlib import pyplot as plt

  figure.savefig(path, dpi=130)
  plt.close(figure)

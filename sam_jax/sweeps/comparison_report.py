"""What a comparison of methods has found: tables, remarks and a picture.

Methods are compared with a reference by the differences between runs of the
same seed, which start from the same parameters and see the same batches.
"""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from sam_jax.drawing import words
from sam_jax.runs import workdir as workdir_lib
from sam_jax.sweeps import (
  candidates as candidates_lib,
  comparison as comparison_lib,
  comparison_picture,
  method_list,
  results,
  run_files,
  settings as settings_lib,
  statistics,
  tables,
)


def difference(
  setting: settings_lib.Setting, other: settings_lib.Setting
) -> statistics.Estimate | None:
  """Returns by how much a score differs from another one, seed by seed.

  Returns:
    The mean over the seeds that both have, with its interval; None if there are
    none.
  """
  scores, others = (
    {run.fields['seed']: run.result[results.FINAL] for run in each.runs}
    for each in (setting, other)
  )
  found = [scores[seed] - others[seed] for seed in scores if seed in others]
  return statistics.estimate(found) if found else None


def verdict(found: statistics.Estimate) -> str:
  """Returns what a difference of scores says in plain words; low is good."""
  if found.n < 2:
    return 'one seed cannot tell'
  if abs(found.mean) <= found.half_width:
    return 'within the noise'
  return 'better' if found.mean < 0 else 'worse'


def _equals(tried: comparison_lib.Tried) -> list[candidates_lib.Candidate]:
  """Returns the candidates of the lowest mean score, the chosen one first."""
  means = [
    (candidate, setting.estimate(results.FINAL).mean)
    for candidate, setting in tried.settings
    if setting is not None
  ]
  lowest = min((mean for _, mean in means), default=0.0)
  return [candidate for candidate, mean in means if mean == lowest]


class _Tested(NamedTuple):
  """What was chosen of a method, and its runs on the test split."""

  best: candidates_lib.Candidate
  setting: settings_lib.Setting


class Report:
  """The tables, the remarks and the picture of a comparison."""

  def __init__(
    self,
    comparison: comparison_lib.Comparison,
    tried: Mapping[str, comparison_lib.Tried],
    directory: pathlib.Path,
    reference: str,
  ) -> None:
    """Reads the runs on the test split.

    Args:
      comparison: whose runs are settled.
      tried: what its `choose` returned.
      directory: of the runs.
      reference: label of the method that others are compared with.
    """
    self._comparison, self._tried = comparison, tried
    self._reference = reference
    self._found: dict[str, _Tested] = {}
    for label, (_, best) in tried.items():
      if best is None:
        continue
      setting = comparison_lib.finished(comparison.test_cells(best), directory)
      if setting is not None:
        self._found[label] = _Tested(best, setting)

  def write(self, directory: pathlib.Path) -> Iterator[str]:
    """Writes `comparison.*` and `tuning.*`; yields what there is to print."""
    tuning = self.tuning_rows()
    if tuning:
      tables.write_rows(directory / 'tuning', tuning)
    remarks = list(self.remarks())
    if self._found:
      path = directory / 'comparison'
      yield tables.write_rows(path, self.rows(), remarks)
    yield from remarks
    if self._found:
      path = directory / 'comparison.png'
      self._draw(path)
      yield str(path)

  def rows(self) -> list[tables.Row]:
    """Returns the rows of the table of the test split."""
    return [self._row(label, tested) for label, tested in self._found.items()]

  def _row(self, label: str, tested: _Tested) -> tables.Row:
    """Returns the columns of a method."""
    best, setting = tested
    score = setting.score
    row = {
      'method': label,
      'chosen': self._chosen(label, best) or '-',
      'of': str(len(self._comparison.candidates[label])),
      'gradients/step': f'{best.cost:.4g}',
      'steps': str(best.num_steps),
      'n': str(len(setting.runs)),
      score.heading(): tables.interval(setting.estimate(results.FINAL), score),
    }
    other = self._found.get(self._reference)
    if other is None or label == self._reference:
      return row
    found = difference(setting, other.setting)
    if found is not None:
      row[f'minus {self._reference}'] = tables.interval(found, score, '+')
      row[f'than {self._reference}'] = verdict(found)
    return row

  def _chosen(self, label: str, candidate: candidates_lib.Candidate) -> str:
    """Returns the fields of a candidate that its label does not say."""
    values = self._comparison.entries[label].values
    return method_list.text(
      {k: v for k, v in candidate.fields.items() if len(values.get(k, ())) != 1}
    )

  def tuning_rows(self) -> list[tables.Row]:
    """Returns the rows of the table of the validation split."""
    return [
      {
        'method': label,
        'tried': self._chosen(label, candidate),
        'n': str(len(setting.runs)),
        f'validation {setting.score.heading()}': tables.interval(
          setting.estimate(results.FINAL), setting.score
        ),
        'chosen': 'x' if candidate is best else '',
      }
      for label, (settings, best) in self._tried.items()
      for candidate, setting in settings
      if setting is not None
    ]

  def remarks(self) -> Iterator[str]:
    """Yields what a reader must know of the tables."""
    yield from tables.remarks_on_data(
      [tested.setting for tested in self._found.values()]
    )
    for label, (settings, best) in self._tried.items():
      for candidate, setting in settings:
        if setting is None:
          yield (
            f'left out of the choice, because a run of it failed: {label}, '
            f'{self._chosen(label, candidate)}'
          )
      if best is None:
        yield f'not tested, because no choice was left: {label}'
      elif label not in self._found:
        yield f'not in the table, because all runs failed: {label}'
      else:
        yield from self._remarks_on_choice(label, best)
    yield from self._remarks_on_runs()
    yield from self._remark_on_intervals()

  def _remarks_on_choice(
    self, label: str, best: candidates_lib.Candidate
  ) -> Iterator[str]:
    """Yields what weakens a choice: equals, or a rho at the end of the grid."""
    equal = _equals(self._tried[label])
    if len(equal) > 1:
      others = '; '.join(self._chosen(label, c) for c in equal if c is not best)
      yield f'{label}: as good on the validation split as the chosen: {others}'
    rhos = [
      c.fields.get(method_list.RHO, 0.0)
      for c in self._comparison.candidates[label]
    ]
    of_equal = {c.fields.get(method_list.RHO, 0.0) for c in equal}
    if len(set(rhos)) == 1 or len(of_equal) != 1:
      return
    [rho] = of_equal
    for end, word in ((max(rhos), 'largest'), (min(rhos), 'smallest')):
      if rho == end:
        yield (
          f'{label}: rho = {rho:g} is the {word} that was tried; try others by '
          '--rho_factors, or by values in --methods'
        )

  def _remarks_on_runs(self) -> Iterator[str]:
    """Yields what a reader must know of the runs on the test split."""
    for label, (_, setting) in self._found.items():
      if len(setting.runs) < self._comparison.seeds:
        yield (
          f'warning: {len(setting.runs)} of {self._comparison.seeds} runs of '
          f'{label} are finished'
        )
    tested = self._found.values()
    runs = [run for _, setting in tested for run in setting.runs]
    for name in settings_lib.mixed(settings_lib.Setting({}, tuple(runs), {})):
      yield f'warning: the runs differ in {name}'

  def _remark_on_intervals(self) -> Iterator[str]:
    """Yields what the intervals mean, if there are any."""
    others = len(self._found) - 1
    if self._reference in self._found and others:
      yield (
        f'± is a 95 % confidence interval of a mean over seeds; "minus '
        f'{self._reference}" is the mean difference between runs of the same '
        'seed. Each interval stands for itself: of 20 methods that are as good '
        f'as {self._reference}, one is expected to seem better or worse.'
      )

  def _draw(self, path: pathlib.Path) -> None:
    """Draws the scores along the runs and at their end, the best on top."""
    found = sorted(
      self._found.items(),
      key=lambda item: item[1].setting.estimate(results.FINAL).mean,
    )
    lines = {self._line(*item): item[1].setting for item in found}
    shown = found[0][1].setting
    what = f'{words.split(shown.split)} {shown.score.label}'
    config = run_files.read_config(shown.runs[0].workdir)
    title = words.title(
      [] if config is None else [workdir_lib.flatten(config)],
      f'{what} of each method, {self._comparison.budget:,} gradients each',
    )
    comparison_picture.draw(path, lines, title)

  def _line(self, label: str, tested: _Tested) -> str:
    """Returns what the line of a method is called."""
    best, setting = tested
    score = setting.score
    final = tables.interval(setting.estimate(results.FINAL), score)
    named = ', '.join(filter(None, [label, self._chosen(label, best)]))
    return f'{named}: {final} {score.unit}'.rstrip()


def find_reference(labels: Sequence[str], name: str) -> str:
  """Returns the label of the method that others are compared with.

  Args:
    labels: of all methods.
    name: a label, or the name of a method that is there once.

  Raises:
    ValueError: there is no such method, or there are several.
  """
  if name in labels:
    return name
  found = [label for label in labels if label.partition('(')[0] == name]
  if len(found) != 1:
    what = f'{len(found)} methods are' if found else 'no method is'
    raise ValueError(
      f'--reference={name}: {what} called that; it must be one of '
      f'{", ".join(found or labels)}, or be added to --methods'
    )
  return found[0]

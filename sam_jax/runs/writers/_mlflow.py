"""MLflow: a run in the experiment that MLflow's own settings name."""

import os
import time
from collections.abc import Mapping
from typing import Any

from sam_jax.runs import callbacks, workdir as workdir_lib
from sam_jax.runs.writers import base

_RUN_ID = 'sam_jax.run_id'
_LINES = 'sam_jax.lines'
_MAX_PARAMS = 100  # in a request


@base.register('mlflow', needs='mlflow')
class Mlflow(base.Writer):
  """Logs the metrics of each line to an MLflow run.

  Server or database and experiment are those of MLflow's own settings:
  MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, ... Two tags of the MLflow run
  say which run it is of, by which a resumed run finds it, and how many lines of
  metrics.jsonl it has.
  """

  _run_id = ''

  def open(self, start: callbacks.Start) -> int:
    """Creates the MLflow run, or finds it."""
    import mlflow
    from mlflow import entities

    self._entities = entities
    self._client = mlflow.MlflowClient()
    experiment = self._experiment()
    found = self._client.search_runs(
      [experiment], f"tags.`{_RUN_ID}` = '{start.run_id}'", max_results=1
    )
    if found:
      self._run_id = found[0].info.run_id
      self._client.update_run(self._run_id, status='RUNNING')
      return int(found[0].data.tags.get(_LINES, 0))
    created = self._client.create_run(
      experiment, tags={_RUN_ID: start.run_id}, run_name=start.workdir.name
    )
    self._run_id = created.info.run_id
    fields = workdir_lib.flatten(start.config).items()
    params = [entities.Param(name, str(value)) for name, value in fields]
    for i in range(0, len(params), _MAX_PARAMS):
      self._client.log_batch(self._run_id, params=params[i : i + _MAX_PARAMS])
    return 0

  def write(self, number: int, line: base.Line) -> None:
    """Logs a value for each metric, and the number of lines with them."""
    now, step = int(1000 * time.time()), int(line['step'])
    metrics = [
      self._entities.Metric(name, value, now, step)
      for name, value in line.items()
      if name != 'step'
    ]
    lines = self._entities.RunTag(_LINES, str(number + 1))
    self._client.log_batch(self._run_id, metrics=metrics, tags=[lines])

  def close(self, result: Mapping[str, Any] | None) -> None:
    """Ends the MLflow run."""
    status = 'FINISHED' if result is not None else 'KILLED'
    self._client.set_terminated(self._run_id, status)

  def _experiment(self) -> str:
    """Returns the id of the experiment, which is created if it is missing."""
    if given := os.environ.get('MLFLOW_EXPERIMENT_ID'):
      return given
    name = os.environ.get('MLFLOW_EXPERIMENT_NAME', 'Default')
    found = self._client.get_experiment_by_name(name)
    if found is not None:
      return found.experiment_id
    return self._client.create_experiment(name)

"""Cells as tasks of a Ray cluster, which schedules them and survives machines.

Every machine has this package, and sees the directory of the sweep and the
config files under the same paths. A task starts the cell in a process of its
own, as the pool does, and writes to the same files. If its machine dies, Ray
starts the task on another one, where the run resumes from its last checkpoint.
"""

import contextlib
import logging
import os
import pathlib
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sam_jax import extras
from sam_jax.runs import lock
from sam_jax.sweeps import (
  cells as cells_lib,
  check,
  child,
  execution,
  run_files,
)

_POLL_SECONDS = 0.5
# How often a task is started again because its machine died.
_MAX_RETRIES = 20
# A machine that Ray has lost may live on for a while, and its run with it.
_LOCK_SECONDS = 600
# What the variables of this process begin with that the runs get on the other
# machines. A plug-in may be found by PYTHONPATH alone.
_PASSED_ON = ('JAX_', 'PYTHONPATH', 'SAM_JAX_', 'XLA_')


class RayCluster:
  """A place for `execution.execute`: a Ray cluster."""

  def __init__(
    self,
    directory: pathlib.Path,
    address: str,
    *,
    gpus_per_cell: float | None = None,
    cpus_per_cell: float = 1,
    command: Callable[
      [cells_lib.Fields, pathlib.Path], Sequence[str]
    ] = cells_lib.command,
  ) -> None:
    """Connects to the cluster.

    Args:
      directory: of the sweep, absolute; all machines see it.
      address: of the cluster, see `ray.init`.
      gpus_per_cell: GPUs that Ray gives to each cell; None is 1 if the cluster
        has GPUs, else 0.
      cpus_per_cell: CPU cores that Ray gives to each cell.
      command: returns the arguments of the Python interpreter for a cell.

    Raises:
      ValueError: the cluster cannot be reached.
      ModuleNotFoundError: Ray is not installed; the message names the extra.
    """
    with extras.required():
      import ray
    self._ray = ray
    try:
      _connect(address)
      ray.init(
        address=address, log_to_driver=False, logging_level=logging.ERROR
      )
    except (OSError, ValueError, RuntimeError) as error:
      raise ValueError(
        f'no Ray cluster can be reached at {address!r}: {error}'
      ) from error
    if gpus_per_cell is None:
      gpus_per_cell = 1 if ray.cluster_resources().get('GPU') else 0
    options = {
      'num_cpus': cpus_per_cell,
      'num_gpus': gpus_per_cell,
      'max_retries': _MAX_RETRIES,
    }
    self._task = ray.remote(_run_cell).options(**options)
    self._check = ray.remote(_check_cells).options(**options)
    self._directory, self._command = directory, command
    self._cells: dict[Any, cells_lib.Fields] = {}  # by reference of the task

  def check(self, cells: Sequence[cells_lib.Fields]) -> list[str]:
    """Returns why cells cannot be run, a line for each reason.

    They are tried on a machine of the cluster, as soon as it has room for one.
    """
    checked = self._check.remote(
      list(cells), self._directory, _passed_on(), os.getcwd()
    )
    try:
      return self._ray.get(checked)
    except self._ray.exceptions.RayError as error:
      raise ValueError(f'Ray: {" ".join(str(error).split())}') from error

  def has_room(self) -> bool:
    """Returns True: Ray keeps the cells for which there is no room yet."""
    return True

  def start(self, cell: cells_lib.Fields) -> None:
    """Hands a cell to Ray."""
    reference = self._task.remote(
      list(self._command(cell, self._directory)),
      cells_lib.workdir(cell, self._directory),
      execution.log_path(cell, self._directory),
      _passed_on(),
      os.getcwd(),
    )
    self._cells[reference] = cell

  def ended(self) -> list[tuple[cells_lib.Fields, child.End]]:
    """Waits a moment; returns the cells that have ended since, and how."""
    if not self._cells:
      return []
    references = list(self._cells)
    done, _ = self._ray.wait(
      references, num_returns=len(references), timeout=_POLL_SECONDS
    )
    return [(self._cells.pop(r), self._end(r)) for r in done]

  def stop(self) -> None:
    """Asks all runs to save a checkpoint and to end; does not wait."""
    for reference in self._cells:
      self._ray.cancel(reference, force=False)

  def _end(self, reference: Any) -> child.End:
    """Returns how a task ended."""
    try:
      return self._ray.get(reference)
    except self._ray.exceptions.TaskCancelledError:
      return child.End(None, 'was stopped by a signal', is_failure=False)
    except self._ray.exceptions.RayError as error:
      reason = ' '.join(str(error).split())
      return child.End(None, f'Ray: {reason}', is_failure=False)


def _passed_on() -> dict[str, str]:
  """Returns the variables that the runs get on the other machines."""
  return {
    name: value
    for name, value in os.environ.items()
    if name.startswith(_PASSED_ON)
  }


def _check_cells(
  cells: Sequence[cells_lib.Fields],
  directory: pathlib.Path,
  environment: Mapping[str, str],
  here: str,
) -> list[str]:
  """Returns why cells cannot be run on the machine of this task."""
  if os.path.isdir(here):
    os.chdir(here)
  return check.in_process(cells, directory, {**os.environ, **environment})


def _connect(address: str) -> None:
  """Raises OSError if nothing listens at an address with a port.

  Ray would try for minutes, and then end the process.
  """
  host, colon, port = address.removeprefix('ray://').rpartition(':')
  if colon and port.isdecimal():
    with socket.create_connection((host.strip('[]'), int(port)), timeout=30):
      pass


def _run_cell(
  command: Sequence[str],
  workdir: pathlib.Path,
  log: pathlib.Path,
  environment: Mapping[str, str],
  here: str,
) -> child.End:
  """Runs a cell on the machine where Ray starts this task."""
  if os.path.isdir(here):
    os.chdir(here)  # relative paths in a config start where the sweep started
  _wait_for_lock(workdir)
  result = None
  with contextlib.suppress(ValueError):  # of a damaged one the run will say so
    result = run_files.read_result(workdir)
  if result is not None:  # a machine that was lost has finished it after all
    return child.End(result)
  process = child.Child(command, workdir, log, {**os.environ, **environment})
  while True:
    try:
      end = process.poll()
      if end is not None:
        return end
      time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:  # Ray's way to cancel a task
      process.stop()


def _wait_for_lock(workdir: pathlib.Path) -> None:
  """Waits while another process uses a run directory, up to ten minutes.

  After that the run itself says who uses it.
  """
  deadline = time.monotonic() + _LOCK_SECONDS
  while lock.is_held(workdir) and time.monotonic() < deadline:
    time.sleep(_POLL_SECONDS)

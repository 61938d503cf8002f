"""Cells in processes on this machine, a few at a time."""

import os
import pathlib
import time
from collections.abc import Callable, Sequence

from sam_jax.sweeps import cells as cells_lib, check, child, execution

_POLL_SECONDS = 0.2


class Pool:
  """A place for `execution.execute`: at most so many processes at a time."""

  def __init__(
    self,
    directory: pathlib.Path,
    *,
    workers: int = 1,
    gpus: Sequence[str] = (),
    command: Callable[
      [cells_lib.Fields, pathlib.Path], Sequence[str]
    ] = cells_lib.command,
  ) -> None:
    """Starts nothing yet.

    Args:
      directory: of the sweep, absolute.
      workers: number of cells at a time.
      gpus: numbers of the GPUs that the workers take turns with, one each; if
        there are none, each worker sees all GPUs.
      command: returns the arguments of the Python interpreter for a cell.
    """
    self._directory, self._command = directory, command
    self._gpus = gpus
    self._free = list(range(workers))
    self._children: list[tuple[cells_lib.Fields, int, child.Child]] = []

  def check(self, cells: Sequence[cells_lib.Fields]) -> list[str]:
    """Returns why cells cannot be run, a line for each reason."""
    return check.in_process(cells, self._directory, self._environment(0))

  def has_room(self) -> bool:
    """Returns whether another cell can be started."""
    return bool(self._free)

  def start(self, cell: cells_lib.Fields) -> None:
    """Starts a cell in a process of its own."""
    worker = self._free[0]
    process = child.Child(
      self._command(cell, self._directory),
      cells_lib.workdir(cell, self._directory),
      execution.log_path(cell, self._directory),
      self._environment(worker),
    )
    self._free.remove(worker)
    self._children.append((cell, worker, process))

  def _environment(self, worker: int) -> dict[str, str]:
    """Returns the variables of the processes of a worker."""
    if not self._gpus:
      return dict(os.environ)
    gpu = self._gpus[worker % len(self._gpus)]
    return os.environ | {'CUDA_VISIBLE_DEVICES': gpu}

  def ended(self) -> list[tuple[cells_lib.Fields, child.End]]:
    """Waits a moment; returns the cells that have ended since, and how."""
    if self._children:
      time.sleep(_POLL_SECONDS)
    ends = []
    for member in list(self._children):
      cell, worker, process = member
      end = process.poll()
      if end is not None:
        self._children.remove(member)
        self._free = sorted([*self._free, worker])
        ends.append((cell, end))
    return ends

  def stop(self) -> None:
    """Asks all runs to save a checkpoint and to end; does not wait."""
    for _, _, process in self._children:
      process.stop()

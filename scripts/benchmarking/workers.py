"""Processes that take steps when they are asked to: both ends of the line.

A worker prepares what it measures, takes two steps, and says in one line of
JSON on standard output what it is: name, parameters, flops (of a step),
compile_s, memory_bytes (or null), versions, device. Then it answers each line
{"steps": n} of standard input with {"seconds": per step}, until its input ends.
Whatever else it prints goes to standard error. If it fails, its last line is
{"error": why}, and its exit status is 1.

Between two answers a worker waits, so that one process works at a time. This
module imports the standard library alone.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

# What a worker says of itself.
FACTS = ('name', 'parameters', 'flops', 'compile_s', 'memory_bytes')
_PATIENCE_SECONDS = 10.0


class WorkerError(RuntimeError):
  """A worker cannot be started, says what nobody understands, or is gone."""


def serve(prepare: Callable[[], tuple[Mapping[str, Any], Any]]) -> int:
  """Serves as a worker; returns the exit status.

  Args:
    prepare: returns what the worker says of itself, and `(n) -> seconds`, which
      takes n steps, waits for the last and returns the seconds of one.
  """
  with answers() as answer:
    try:
      facts, take = prepare()
      answer({**facts})
      for line in sys.stdin:
        if line.strip():
          answer({'seconds': take(int(json.loads(line)['steps']))})
    except Exception as error:  # whatever a framework raises
      answer({'error': f'{type(error).__name__}: {one_line(error)}'})
      return 1
  return 0


@contextlib.contextmanager
def answers() -> Iterator[Callable[[Mapping[str, Any]], None]]:
  """Yields what writes lines of JSON to standard output.

  Whatever else is printed meanwhile goes to standard error, also what libraries
  of C print.
  """
  sys.stdout.flush()
  kept = os.dup(1)
  os.dup2(2, 1)
  try:
    with (
      os.fdopen(os.dup(kept), 'w', encoding='utf-8') as out,
      contextlib.redirect_stdout(sys.stderr),
    ):
      yield lambda content: print(json.dumps(content), file=out, flush=True)
  finally:
    os.dup2(kept, 1)
    os.close(kept)


def one_line(error: BaseException) -> str:
  """Returns the start of a message, without its line breaks."""
  return ' '.join(str(error).split())[:300]


class Worker:
  """A worker process, from this end."""

  def __init__(
    self,
    label: str,
    command: Sequence[str],
    *,
    directory: pathlib.Path | None = None,
    environment: Mapping[str, str] | None = None,
  ) -> None:
    """Starts a worker; `ready` waits until it can take steps.

    Args:
      label: what tables call it.
      command: that starts it.
      directory: in which it works; None is this process's own.
      environment: variables that it has besides those of this process.
    """
    self.label = label
    self.facts: dict[str, Any] = {}
    self._log = tempfile.TemporaryFile('w+', encoding='utf-8', errors='replace')
    try:
      self._process = subprocess.Popen(
        list(command),
        cwd=directory,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=self._log,
        encoding='utf-8',
        errors='replace',
      )
    except OSError as error:
      self._log.close()
      raise WorkerError(f'{label}: {error}') from error

  def __enter__(self) -> Self:
    """Returns this worker."""
    return self

  def __exit__(self, *_: object) -> None:
    """Ends the worker."""
    self.close()

  def ready(self) -> dict[str, Any]:
    """Waits until the worker can take steps; returns what it says it is."""
    self.facts = self._read()
    if missing := [name for name in FACTS if name not in self.facts]:
      raise WorkerError(f'{self.label}: it does not say {", ".join(missing)}')
    return self.facts

  def take(self, steps: int) -> float:
    """Has the worker take steps; returns the seconds of one."""
    try:
      print(json.dumps({'steps': steps}), file=self._process.stdin, flush=True)
    except OSError:  # it is gone; what it said last tells why
      pass
    answer = self._read()
    try:
      return float(answer['seconds'])
    except (KeyError, TypeError, ValueError) as error:
      raise WorkerError(f'{self.label}: it answers {answer}') from error

  def close(self) -> None:
    """Ends the worker, by its input's end or, if that is not enough, kills."""
    with contextlib.suppress(OSError):
      self._process.stdin.close()
    try:
      self._process.wait(_PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()
    self._process.stdout.close()
    self._log.close()

  def _read(self) -> dict[str, Any]:
    """Returns the worker's next answer."""
    line = self._process.stdout.readline()
    if not line:
      raise WorkerError(f'{self.label}: it ended: {self._last_words()}')
    try:
      answer = json.loads(line)
    except ValueError as error:
      raise WorkerError(f'{self.label}: it answers {line!r}') from error
    if 'error' in answer:
      raise WorkerError(f'{self.label}: {answer["error"]}')
    return answer

  def _last_words(self) -> str:
    """Returns its exit status, and the last line that it printed."""
    status = self._process.wait(_PATIENCE_SECONDS)
    self._log.seek(0)
    lines = self._log.read().split('\n')
    said = next((line for line in reversed(lines) if line.strip()), 'nothing')
    return f'exit status {status}, and it said: {said.strip()[:300]}'

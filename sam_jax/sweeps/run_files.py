"""Reads the files of runs, whatever is in them.

A sweep and a report read directories that other processes write to, on disks
that fail for a moment, and files that were damaged or edited. What cannot be
used is a ValueError that names the file. A disk that does not answer is asked a
few times more, and then is an OSError: what the file says is not known.
"""

import errno
import json
import math
import pathlib
import stat
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import ml_collections

from sam_jax import tasks
from sam_jax.runs import workdir as workdir_lib

_T = TypeVar('_T')
# What values of other types raise in whatever uses a config.
FAULTS = (AttributeError, KeyError, RecursionError, TypeError)

# What a network file system says for a moment, while it fails over.
_PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT)
_PAUSES = (0.1, 0.3, 1.0)  # seconds between attempts
_MAX_BYTES = 2**24  # of a JSON file; they have some thousand
# Squares of such numbers, and sums of these, are finite.
_MAX_NUMBER = 1e100
_SPLITS = ('validation', 'test')
_NUMBERS = (
  'steps',
  'final_score',
  'best_score',
  'wall_seconds',
  'gradient_evaluations',
)


class Metrics(NamedTuple):
  """What metrics.jsonl of a run holds.

  Attributes:
    lines: those that can be used, by step.
    damage: what is wrong with the file, in one line; '' if nothing is.
  """

  lines: list[dict[str, Any]]
  damage: str = ''


def read_result(
  workdir: pathlib.Path, *, is_expected: bool = False
) -> dict[str, Any] | None:
  """Returns result.json of a run, None if the run is not finished.

  Args:
    workdir: run directory.
    is_expected: whether the run has just said that it is finished. A network
      file system may know of its files a moment later.

  Raises:
    ValueError: the file is damaged, or of another edition.
    OSError: the disk does not answer.
  """
  path = workdir / 'result.json'
  passing = (*_PASSING, errno.ENOENT) if is_expected else _PASSING
  try:
    result = _retried(lambda: _read_json(path), passing)
  except (FileNotFoundError, NotADirectoryError):
    return None
  _check_result(path, result)
  return result


def read_config(workdir: pathlib.Path) -> ml_collections.ConfigDict | None:
  """Returns config.json of a run, None if there is none.

  Raises:
    ValueError: the file is damaged.
    OSError: the disk does not answer.
  """
  path = workdir / 'config.json'
  try:
    _retried(lambda: _read_json(path), _PASSING)
    return workdir_lib.read_config(workdir)
  except (FileNotFoundError, NotADirectoryError):
    return None
  except FAULTS as error:  # of the names or the depth of fields
    raise ValueError(f'{path} cannot be read ({error})') from error


def read_metrics(workdir: pathlib.Path) -> Metrics:
  """Returns metrics.jsonl of a run.

  Raises:
    OSError: the disk does not answer.
  """
  path = workdir / 'metrics.jsonl'
  try:
    content = _retried(lambda: _read_bytes(path), _PASSING)
  except (FileNotFoundError, NotADirectoryError):
    return Metrics([], f'{path} is missing')
  except ValueError as error:
    return Metrics([], str(error))
  lines: list[dict[str, Any]] = []
  wrong = []
  for number, text in enumerate(content.splitlines(), 1):
    line = _line(text)
    if line is None or (lines and not _follows(line, lines[-1])):
      wrong.append(number)
    if line is not None:
      lines.append(line)
  damage = ''
  if wrong:
    damage = (
      f'{path} is damaged: {len(wrong)} of {number} lines cannot be read or '
      f'are out of order, the first is line {wrong[0]}'
    )
  return Metrics(sorted(lines, key=lambda line: line['step']), damage)


def is_number(value: Any, *, or_nan: bool = False) -> bool:
  """Returns whether a value is a number that can be calculated with.

  Args:
    value: of a JSON file.
    or_nan: whether NaN and the infinities count as numbers.
  """
  if isinstance(value, bool) or not isinstance(value, int | float):
    return False
  if isinstance(value, float) and not math.isfinite(value):
    return or_nan
  return abs(value) < _MAX_NUMBER


def check_agreement(
  workdir: pathlib.Path,
  result: Mapping[str, Any],
  config: ml_collections.ConfigDict,
) -> None:
  """Refuses a result that is not that of its run.

  Raises:
    ValueError: the config, or the log, says something else.
  """
  path, lines = workdir / 'result.json', read_metrics(workdir).lines
  differing = _differing_length(result, config)
  key = f'{result["split"]}/{result["score"]["metric"]}'
  last: Mapping[str, Any] = lines[-1] if lines else {}
  if differing is None and last.get('step', 0) > result['steps']:
    differing = f'it has {result["steps"]} steps, the log {last["step"]}'
  is_end = last.get('step') == result['steps'] and is_number(last.get(key))
  if differing is None and is_end and last[key] != result['final_score']:
    differing = f'its score is {result["final_score"]}, in the log {last[key]}'
  if differing is not None:
    raise ValueError(
      f'{path} is of another run, or of a part of this one: {differing}'
    )


def is_as_long(
  result: Mapping[str, Any], config: ml_collections.ConfigDict
) -> bool:
  """Returns whether a result is of as many steps as a config asks for."""
  return _differing_length(result, config) is None


def _differing_length(
  result: Mapping[str, Any], config: ml_collections.ConfigDict
) -> str | None:
  """Returns how a result and a config differ in length, None if they do not."""
  name, key = 'num_steps', 'steps'
  if config.get(name) is None:
    name, key = 'num_epochs', 'epochs'
  asked, made = config.get(name), result.get(key)
  are_numbers = is_number(asked) and is_number(made)
  if made is None or (are_numbers and math.isclose(asked, made)):
    return None
  return f'it has {made} {key}, and {name} of the config is {asked}'


def _retried(read: Callable[[], _T], passing: tuple[int, ...]) -> _T:
  """Returns what a function returns that reads, once the disk answers.

  Args:
    read: raises OSError while the disk does not.
    passing: error numbers of which another attempt may be rid.
  """
  for pause in _PAUSES:
    try:
      return read()
    except OSError as error:
      if error.errno not in passing:
        raise
    time.sleep(pause)
  return read()


def _read_bytes(path: pathlib.Path, limit: int = -1) -> bytes:
  """Returns what is in a file, up to a number of bytes.

  Raises:
    ValueError: it is a directory, a pipe, or the like.
    OSError: it is not there, or the disk does not answer.
  """
  if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
    raise ValueError(f'{path} cannot be read (it is not a file)')
  with path.open('rb') as stream:
    return stream.read(limit)


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  """Returns the object in a JSON file.

  Raises:
    ValueError: it is damaged.
    OSError: it is not there, or the disk does not answer.
  """
  content = _read_bytes(path, _MAX_BYTES + 1)
  try:
    if len(content) > _MAX_BYTES:
      raise ValueError(f'it has more than {_MAX_BYTES} bytes')
    found = json.loads(content.decode('utf-8'))
    # Half of a character in a string cannot be printed.
    json.dumps(found, ensure_ascii=False).encode('utf-8')
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{path} cannot be read ({error})') from error
  if not isinstance(found, dict):
    raise ValueError(f'{path} cannot be read (it is not a JSON object)')
  return found


def _check_result(path: pathlib.Path, result: Mapping[str, Any]) -> None:
  """Refuses a result of which something is missing, or of another type."""
  if 'score' not in result and 'final_error_rate' in result:
    raise workdir_lib.other_edition(path)
  wrong = [name for name in _NUMBERS if not is_number(result.get(name))]
  score, starts = result.get('score'), result.get('starts', [])
  wrong += [] if _is_score(score) else ['score']
  wrong += [] if result.get('split') in _SPLITS else ['split']
  are_dicts = isinstance(starts, list) and all(
    isinstance(start, dict) for start in starts
  )
  wrong += [] if are_dicts else ['starts']
  if not wrong and result['best_score'] > result['final_score']:
    wrong = ['best_score', 'final_score']
  if wrong:
    shown = ', '.join(
      f'{name} is {str(result.get(name))[:40]}' for name in wrong
    )
    raise ValueError(f'{path} is damaged: {shown}')


def _is_score(score: Any) -> bool:
  """Returns whether a value is what `tasks.Score` is made of."""
  if not isinstance(score, dict) or score.keys() != set(tasks.Score._fields):
    return False
  texts = (score['metric'], score['label'], score['unit'])
  is_text = all(isinstance(text, str) for text in texts)
  is_text = is_text and all(text.isprintable() for text in texts)
  return is_text and is_number(score['scale']) and score['scale'] > 0


def _line(text: bytes) -> dict[str, Any] | None:
  """Returns a line of metrics.jsonl, None if it cannot be used."""
  try:
    line = json.loads(text.decode('utf-8'))
  except (ValueError, RecursionError):
    return None
  if not isinstance(line, dict):
    return None
  return (
    line if all(is_number(line.get(k)) for k in ('step', 'epoch')) else None
  )


def _follows(line: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
  """Returns whether a line can come after another one in a log."""
  if line['step'] == before['step']:  # of the step, and then of its epoch
    return line.keys() & before.keys() <= {'step', 'epoch'}
  return line['step'] > before['step']

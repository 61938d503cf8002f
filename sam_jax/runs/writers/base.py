"""The names of the writers, and what a writer is."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import ml_collections

from sam_jax import extras, lookup, registration
from sam_jax.runs import callbacks

Line = Mapping[str, float]


class Writer:
  """Brings the lines of metrics.jsonl to another place, too.

  A subclass overrides all methods that it needs. Whatever they raise becomes
  one warning, and the run goes on. At a later checkpoint the writer is opened
  again, and gets the lines that it does not have.
  """

  def open(self, start: callbacks.Start) -> int:
    """Connects to where the lines go; called again after a failure.

    Args:
      start: of the run. After a failure, its `step`, `rows` and `logged` are
        those of the last line that was written.

    Returns:
      How many lines are there already: the number of the first line that
      `write` is called with. 0 asks for all lines of the run so far.
      `start.rows` is for a place where what follows the checkpoint is
      forgotten, and the number of lines that the place holds for one that
      cannot forget. A line that is logged again by a resumed run is then not
      written twice.
    """
    raise NotImplementedError

  def write(self, number: int, line: Line) -> None:
    """Takes one line.

    Args:
      number: of the line in metrics.jsonl, from 0.
      line: 'step', 'epoch' and the metrics by name.
    """
    raise NotImplementedError

  def sync(self) -> None:
    """Returns when all lines are safe; called before each checkpoint."""

  def close(self, result: Mapping[str, Any] | None) -> None:
    """Ends the writing.

    Args:
      result: what result.json holds; None if the run was interrupted or failed.
    """


class _Entry(NamedTuple):
  """A registered writer, and the module that has to be installed for it."""

  make: Callable[[], Writer]
  needs: str | None


_Factory = TypeVar('_Factory', bound=Callable[[], Writer])
_WRITERS: dict[str, _Entry] = {}


def register(
  name: str, *more: object, needs: str | None = None
) -> Callable[[_Factory], _Factory]:
  """Makes a writer known by name; a decorator for a subclass of `Writer`.

  Args:
    name: what `config.log.writers` calls it.
    *more: refused; the error says how to register.
    needs: module that has to be installed, such as 'wandb'.

  Returns:
    A decorator for a class, or for another function without arguments that
    returns a `Writer`.

  Raises:
    ValueError: the name is taken, or something else is wrong with the call.

  Example:
    >>> from sam_jax.runs import writers
    >>> @writers.register('doctest_screen')
    ... class Screen(writers.Writer):
    ...   def open(self, start):
    ...     return start.rows
    ...
    ...   def write(self, number, line):
    ...     print(line)
    >>> 'doctest_screen' in writers.names()
    True
  """
  registration.check_call('writers', name, *more)

  def add(factory: _Factory) -> _Factory:
    registration.check_new('writer', name, _WRITERS, factory)
    if isinstance(factory, type) and not issubclass(factory, Writer):
      raise ValueError(
        f'{factory.__name__} is no writer: it must be a subclass of '
        'sam_jax.runs.writers.Writer'
      )
    lookup.check_options(f'writer {name!r}', factory, ())
    _WRITERS[name] = _Entry(factory, needs)
    return factory

  return add


def names() -> list[str]:
  """Returns the names of the writers, sorted."""
  return sorted(_WRITERS)


def create(name: str) -> Writer:
  """Returns a writer by its name, not opened yet.

  Raises:
    ValueError: the name is unknown, or what is registered makes no writer.
  """
  lookup.check('writer', name, names())
  return registration.check_made('writer', name, _WRITERS[name].make(), Writer)


def named(config: ml_collections.ConfigDict) -> tuple[str, ...]:
  """Returns the names of the writers of a config."""
  log = config.log
  tensorboard = ('tensorboard',) if log.tensorboard else ()
  return tuple(dict.fromkeys((*tensorboard, *log.writers)))


def check(given: Sequence[str]) -> None:
  """Refuses writers that are unknown or whose package is not installed.

  Args:
    given: names.

  Raises:
    ValueError: the message says what is known, or how to install the package.
  """
  for name in given:
    lookup.check('writer in log.writers', name, names())
    module = _WRITERS[name].needs
    if module is not None and importlib.util.find_spec(module) is None:
      advice = extras.advice(module) or f'{module} is not installed'
      raise ValueError(f'log.writers has {name!r}, and {advice}')

r"""Prints where the time of the traced steps of a run went, by parts of a step.

    python -m sam_jax.train --config=digits --workdir=runs/a --profile=20
    python scripts/read_profile.py --workdir=runs/a

Reads the newest trace below the directory. A part is what the code calls so
with `jax.named_scope`: 'ascent' is the gradient from which the perturbation is
made, 'descent' the one at the perturbed parameters. Several operations may run
at once, on the threads of a CPU, the streams of a GPU or several devices, and
the times of all are added up, so that together they may exceed that of a step.
Where the compiler has fused operations of several parts, the time counts for
one of them. An operation that the compiler has made, and that has no name,
counts for the part whose results it uses. Other programs, such as the
evaluation, have one row each.
"""

import collections
import pathlib
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from google.protobuf import empty_pb2, message as protobuf, unknown_fields
from jax import profiler

# The checkout goes first, installed or not.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from sam_jax import _cli
from sam_jax.runs import files

flags = _cli.Flags()
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Run directory, or a trace below it.', required=True
)

PARTS = (  # in the order in which a step computes them
  'augmentation',
  'ascent',
  'perturbation',
  'descent',
  'diagnostics',
  'average',
  'finish',
  'clip',
  'optimizer',
)
OTHER = 'other'
# Marks of the loop on the host, see sam_jax/runs/profiling.py.
MARKS = ('next batch', 'read metrics', 'log', 'evaluate', 'checkpoint')
_STEP = 'train'
# What JAX writes around the names of what it transforms. 'jit(clip)' is none of
# these: that is the name of a function, such as jnp.clip.
_TRANSFORMED = re.compile(r'(?:jvp|transpose|vmap)\((.*)\)')
# What holds other operations, whose times are there too.
_CONTAINERS = ('while', 'conditional', 'call', 'async-start', 'async-done')
# Numbers of fields in the messages XSpace, XPlane, a map's entry,
# XEventMetadata, XStat, HloProto, HloModuleProto, HloComputationProto,
# HloInstructionProto and OpMetadata.
_PLANES, _PLANE_NAME, _EVENT_METADATA, _VALUE = 1, 2, 4, 2
_STATS, _BYTES, _MODULE, _COMPUTATIONS, _INSTRUCTIONS = 5, 6, 1, 3, 2
_NAME, _OPCODE, _OP_METADATA, _OP_NAME = 1, 2, 7, 2
_ID, _INSTRUCTION_ID, _OPERANDS, _CALLED = 5, 35, 36, 38


class Table(NamedTuple):
  """What a trace says of its steps.

  Attributes:
    steps: how many there are.
    step_ms: milliseconds of a step, from the beginning of the first one to the
      end of the last operation, with what lies between the steps.
    parts: milliseconds of a step by part, all devices together.
    marks: milliseconds of a step by what the program does meanwhile.
  """

  steps: int
  step_ms: float
  parts: dict[str, float]
  marks: dict[str, float]


def find(directory: pathlib.Path) -> pathlib.Path:
  """Returns the newest trace below a directory.

  Raises:
    FileNotFoundError: there is none.
  """
  traces = list(directory.rglob('*.xplane.pb'))
  if not traces:
    raise FileNotFoundError(
      f'there is no trace (*.xplane.pb) in {directory}; --profile=STEPS of '
      'sam-train writes one'
    )
  return max(traces, key=lambda path: path.stat().st_mtime)


def read(path: pathlib.Path) -> Table:
  """Returns what a trace says of its steps.

  Raises:
    ValueError: it has none, or the file is not a whole trace.
  """
  with warnings.catch_warnings():
    # Those of jaxlib's types, which abort the process if they are errors.
    warnings.simplefilter('ignore', DeprecationWarning)
    try:
      return _read(path)
    except protobuf.DecodeError as error:
      raise ValueError(
        f'{path} is damaged, or was cut off while it was written: {error}'
      ) from error


def _read(path: pathlib.Path) -> Table:
  """Returns what `read` does."""
  content = path.read_bytes()
  parts = dict(_parts(content))
  spent: collections.Counter[str] = collections.Counter()
  marked: collections.Counter[str] = collections.Counter()
  starts, ends = [], []
  for event, operation in _events(content):
    if operation is not None:
      ends.append(event.end_ns)
      if part := parts.get(operation, OTHER):
        spent[part] += event.duration_ns
    elif event.name == _STEP:
      starts.append(event.start_ns)
      ends.append(event.end_ns)
    elif event.name in MARKS:
      marked[event.name] += event.duration_ns
  if not starts:
    raise ValueError(f'{path} holds no step; was another program traced?')
  steps = len(starts)
  each = 1e6 * steps
  return Table(
    steps=steps,
    step_ms=(max(ends) - min(starts)) / each,
    parts={name: ns / each for name, ns in spent.most_common()},
    marks={name: ns / each for name, ns in marked.most_common()},
  )


def _events(content: bytes) -> Iterator[tuple[Any, tuple[str, str] | None]]:
  """Yields events, with module and instruction of those that compute."""
  for plane in profiler.ProfileData.from_serialized_xspace(content).planes:
    for line in plane.lines:
      for event in line.events:
        stats = dict(event.stats)
        operation = None
        if 'hlo_op' in stats:
          operation = (stats.get('hlo_module', ''), stats['hlo_op'])
        yield event, operation


def _parts(content: bytes) -> Iterator[tuple[tuple[str, str], str]]:
  """Yields module and instruction, and its part; '' is none of its own."""
  for plane in _messages(content, _PLANES):
    if b'/host:metadata' not in _messages(plane, _PLANE_NAME):
      continue
    for entry in _messages(plane, _EVENT_METADATA):
      for metadata in _messages(entry, _VALUE):
        for stat in _messages(metadata, _STATS):
          for proto in _messages(stat, _BYTES):
            yield from _parts_of_program(proto)


def _parts_of_program(proto: bytes) -> Iterator[tuple[tuple[str, str], str]]:
  """Yields the same of a serialized HloProto."""
  for module in _messages(proto, _MODULE):
    title = _messages(module, _NAME)[0].decode()
    programs = {
      _fields(computation, _ID)[0]: [
        _Instruction.of(instruction)
        for instruction in _messages(computation, _INSTRUCTIONS)
      ]
      for computation in _messages(module, _COMPUTATIONS)
    }
    of_all = [i for instructions in programs.values() for i in instructions]
    is_step = any(each.part != OTHER for each in of_all)
    found: dict[int, str] = {}
    for each in of_all:  # after those whose results they use
      found[each.id] = each.part_in(programs, found)
      part = found[each.id] if is_step else title.removeprefix('jit_')
      yield (title, each.name), '' if each.opcode in _CONTAINERS else part


class _Instruction(NamedTuple):
  """An instruction of a program, and the ids of what it uses and calls."""

  id: int
  name: str
  opcode: str
  is_named: bool
  part: str
  operands: tuple[int, ...]
  called: tuple[int, ...]

  @classmethod
  def of(cls, proto: bytes) -> '_Instruction':
    """Returns a serialized HloInstructionProto."""
    scopes = [
      scope
      for metadata in _messages(proto, _OP_METADATA)
      for scope in _messages(metadata, _OP_NAME)
    ]
    return cls(
      id=_fields(proto, _INSTRUCTION_ID)[0],
      name=_messages(proto, _NAME)[0].decode(),
      opcode=_messages(proto, _OPCODE)[0].decode(),
      is_named=any(scopes),
      part=part_of(b''.join(scopes).decode()),
      operands=tuple(_numbers(proto, _OPERANDS)),
      called=tuple(_numbers(proto, _CALLED)),
    )

  def part_in(
    self, programs: dict[int, list['_Instruction']], found: dict[int, str]
  ) -> str:
    """Returns its part, or that of what is fused in it, or of what it uses.

    Args:
      programs: instructions by id of the computation.
      found: parts by id of those before it.
    """
    fused = [each.part for c in self.called for each in programs[c]]
    used = [found.get(i, OTHER) for i in self.operands if not self.is_named]
    used.sort(key=(OTHER, *PARTS).index)
    known = [p for p in (*used, *fused, self.part) if p != OTHER]
    return known[-1] if known else OTHER


def part_of(scopes: str) -> str:
  """Returns the innermost part in names such as 'jit(f)/jvp(ascent)/conv'."""
  names = map(_untransformed, reversed(scopes.split('/')))
  return next((name for name in names if name in PARTS), OTHER)


def _untransformed(name: str) -> str:
  """Returns the name in one such as 'transpose(jvp(name))'."""
  while found := _TRANSFORMED.fullmatch(name):
    name = found[1]
  return name


def _messages(message: bytes, number: int) -> list[bytes]:
  """Returns the texts and messages with a number in a serialized message."""
  return [x for x in _fields(message, number) if isinstance(x, bytes)]


def _numbers(message: bytes, number: int) -> Iterator[int]:
  """Yields the integers with a number, which may be packed."""
  for field in _fields(message, number):
    if isinstance(field, int):
      yield field
      continue
    value = shift = 0
    for byte in field:
      value |= (byte & 127) << shift
      shift += 7
      if byte < 128:
        yield value
        value = shift = 0


def _fields(message: bytes, number: int) -> list[Any]:
  """Returns the fields with a number of a serialized message.

  The classes of these messages come with TensorFlow alone.
  """
  known = empty_pb2.Empty.FromString(message)
  return [
    field.data
    for field in unknown_fields.UnknownFieldSet(known)
    if field.field_number == number
  ]


def lines(table: Table) -> Iterable[str]:
  """Yields the table as text."""
  total = sum(table.parts.values())
  yield f'{table.steps} steps, {table.step_ms:.2f} ms each'
  yield ''
  yield f'{"computing":<14} {"ms/step":>9} {"share":>7}'
  for name, value in table.parts.items():
    yield f'{name:<14} {value:9.2f} {value / total:7.1%}'
  yield f'{"together":<14} {total:9.2f}  (all threads and devices added up)'
  yield ''
  yield f'{"the program":<14} {"ms/step":>9}'
  for name, value in table.marks.items():
    yield f'{name:<14} {value:9.2f}'


def main(argv: Sequence[str]) -> None:
  """Prints the table of the newest trace."""
  _cli.refuse_arguments(argv[1:])
  for line in lines(read(find(files.user_path(_WORKDIR.value)))):
    print(line)


def cli() -> None:
  _cli.run(main, 'read_profile', flags)


if __name__ == '__main__':
  cli()

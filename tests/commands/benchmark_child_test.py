"""A process ends with the one that has started it, and so does all of it."""

import os
import select
import signal
import subprocess
import sys

import pytest

from scripts import benchmarking
from scripts.benchmarking import child


@pytest.fixture
def started(tmp_path):
  """A program that starts another, and a pipe that the other one holds."""
  pipe = tmp_path / 'pipe'
  os.mkfifo(pipe)
  reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
  inner = f'open({str(pipe)!r}, "w"); print("open", flush=True); input()'
  program = tmp_path / 'program.py'
  program.write_text(
    'import subprocess, sys, time\n'
    f'inner = subprocess.Popen([sys.executable, "-S", "-c", {"f = " + inner!r}]'
    ', stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n'
    'inner.stdout.readline()\n'
    'print("whole")\n'
    'print("half a li", end="", flush=True)\n'
    'time.sleep(1000)\n'
  )
  yield [sys.executable, '-S', str(program)], reader
  os.close(reader)


def _wait_for_end(reader):
  # It can be read only when nobody holds the other end.
  found, _, _ = select.select([reader], [], [], 100)
  assert found and os.read(reader, 1) == b''


def test_what_an_entry_has_started_ends_with_it(started):
  command, reader = started
  lines = child.lines(command, environment={}, seconds=1000.0)
  assert next(lines) == 'whole\n'
  lines.close()
  _wait_for_end(reader)
  with pytest.raises(ChildProcessError, match='it took more than 0 s'):
    list(child.lines(command, environment={}, seconds=0.0))


_PARENT = """
import ast, sys
from scripts.benchmarking import child
command = ast.literal_eval(sys.argv[1])
for line in child.lines(command, environment={}, seconds=1000.0):
  print(line, end='', flush=True)
"""


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_what_an_entry_has_started_ends_with_the_script(started, number):
  command, reader = started
  parent = subprocess.Popen(
    [sys.executable, '-c', _PARENT, repr(command)],
    stdout=subprocess.PIPE,
    cwd=benchmarking.ROOT,
  )
  with parent:
    assert parent.stdout.readline() == b'whole\n'
    parent.send_signal(number)
  assert parent.returncode == -number
  _wait_for_end(reader)

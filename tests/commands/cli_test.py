"""What all commands do, whatever they are for."""

import os
import signal
import sys

import pytest

from sam_jax import _cli


@pytest.mark.parametrize('arguments', [['--help'], []])
def test_a_command_whose_output_nobody_reads_ends_quietly(
  monkeypatch, capfd, arguments
):
  """As in `command | head`: the reader is gone before the rest is written."""
  reader, writer = os.pipe()
  os.close(reader)
  monkeypatch.setattr(sys, 'argv', ['command', *arguments])
  with open(writer, 'w') as stream, monkeypatch.context() as patched:
    patched.setattr(sys, 'stdout', stream)
    with pytest.raises(SystemExit) as stop:
      _cli.run(lambda argv: print('text'), 'command', _cli.Flags())
  # Closing the stream has raised nothing either.
  assert stop.value.code == 128 + signal.SIGPIPE
  assert capfd.readouterr().err == ''

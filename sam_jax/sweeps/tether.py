"""Runs a command that the kernel kills when its parent dies (on Linux).

    python -I tether.py PARENT_PID COMMAND...

A run that outlived its sweep would write where the next sweep writes. This file
is a program and not part of the sweep's process: between fork and exec a
process with several threads can do nothing safely.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
  """Becomes the command."""
  if sys.platform == 'linux':
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel knew
      sys.exit(128 + signal.SIGKILL)
  os.execv(command[0], command)


if __name__ == '__main__':
  main(int(sys.argv[1]), sys.argv[2:])

"""Writes files whole or not at all (until the helper "runs" has it)."""

import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO


def write_atomically(
  path: pathlib.Path, write: Callable[[BinaryIO], Any]
) -> None:
  """Writes a file: flush, fsync, replace."""
  partial = path.with_name(f'{path.name}.partial')
  with partial.open('wb') as stream:
    write(stream)
    stream.flush()
    os.fsync(stream.fileno())
  partial.replace(path)


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a text file."""
  write_atomically(path, lambda stream: stream.write(text.encode()))


def write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
  """Writes a JSON file."""
  write_text(path, json.dumps(content, indent=2) + '\n')

"""Tables of Markdown, and what the figures in them belong to."""

from collections.abc import Mapping, Sequence
from typing import Any

_VERSIONS = ('jax', 'torch')


def caption(about: Mapping[str, Any]) -> str:
  """Returns what figures belong to, as a sentence."""
  versions = dict(about['versions'])
  for row in about.get('rows', ()):
    versions |= row.get('versions', {})
  named = [f'{k} {versions[k]}' for k in _VERSIONS if versions.get(k)]
  return (
    f'{about["date"]}, {about["device"]} ({about["host"]}), '
    f'{", ".join(named)}: `{about["command"]}`'
  )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """Returns a table of Markdown; a `|` within a cell is escaped."""
  lines = [head, ['---'] * len(head), *rows]
  return '\n'.join(
    f'| {" | ".join(cell.replace("|", chr(92) + "|") for cell in line)} |'
    for line in lines
  )

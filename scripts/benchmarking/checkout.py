"""Another commit of this checkout, with the benchmarks of this one."""

import contextlib
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def of(
  root: pathlib.Path, revision: str | None
) -> Iterator[pathlib.Path | None]:
  """Yields a worktree of a commit, with this checkout's scripts in it.

  Args:
    root: of this checkout.
    revision: names the commit; None yields None.

  Raises:
    ValueError: git cannot; the message is git's.
  """
  if revision is None:
    yield None
    return
  with tempfile.TemporaryDirectory() as directory:
    place = pathlib.Path(directory, 'checkout')
    _git(root, 'worktree', 'add', '--detach', str(place), revision)
    try:
      # A module that became a package since would hide it.
      (place / 'scripts' / 'benchmarking.py').unlink(missing_ok=True)
      shutil.copytree(
        root / 'scripts',
        place / 'scripts',
        ignore=shutil.ignore_patterns('__pycache__'),
        dirs_exist_ok=True,
      )
      yield place
    finally:
      _git(root, 'worktree', 'remove', '--force', str(place))


def _git(root: pathlib.Path, *arguments: str) -> None:
  """Has git do something in a checkout."""
  try:
    subprocess.run(
      ['git', *arguments],
      cwd=root,
      check=True,
      capture_output=True,
      encoding='utf-8',
    )
  except subprocess.CalledProcessError as error:
    raise ValueError(f'--commit: git says {error.stderr.strip()}') from error

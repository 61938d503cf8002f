"""What produced a result: code, versions, device."""

import hashlib
import importlib.metadata
import pathlib
import platform
import subprocess
from typing import Any

import jax

from sam_jax import types

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def describe() -> dict[str, Any]:
  """Returns versions, git commit (None outside a checkout) and devices."""
  commit = _git_commit()
  # An installed copy has a version in place of a commit.
  names = _PACKAGES if commit else (*_PACKAGES, 'sam_jax')
  packages = {name: _version(name) for name in names}
  return {
    'versions': {'python': platform.python_version(), **packages},
    'git_commit': commit,
    'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
  }


def _version(name: str) -> str | None:
  """Returns that of a package, None if it is not installed but lies there."""
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return None


def count_parameters(params: types.Params) -> int:
  """Returns the number of scalars in a tree."""
  return sum(leaf.size for leaf in jax.tree.leaves(params))


def _git_commit() -> str | None:
  """Returns the commit of the package; a hash of what was changed since."""
  # An installed copy may lie inside somebody else's repository.
  if _git('ls-files', '--error-unmatch', '__init__.py') is None:
    return None
  commit = _git('describe', '--always', '--abbrev=40')
  # Configs are not looked at: a run keeps its own.
  changes = _git('diff', '--no-ext-diff', 'HEAD', '--', '.')
  if not changes:
    return commit
  return f'{commit}-dirty-{hashlib.sha256(changes.encode()).hexdigest()[:8]}'


def _git(*arguments: str) -> str | None:
  """Returns what git prints where the code is, None if it fails."""
  try:
    done = subprocess.run(
      ['git', *arguments],
      cwd=pathlib.Path(__file__).parents[1],
      capture_output=True,
      encoding='utf-8',
      errors='replace',
      timeout=10,
      check=True,
    )
  except (OSError, subprocess.SubprocessError):
    return None
  return done.stdout.strip()

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
  packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
  return {
    'versions': {
      'python': platform.python_version(),
      **packages,
      **_installed_version(),
    },
    'git_commit': _git_commit(),
    'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
  }


def _installed_version() -> dict[str, str]:
  """Returns that of sam_jax where it is installed; a checkout has a commit."""
  try:
    return {'sam_jax': importlib.metadata.version('sam_jax')}
  except importlib.metadata.PackageNotFoundError:
    return {}


def count_parameters(params: types.Params) -> int:
  """Returns the number of scalars in a tree."""
  return sum(leaf.size for leaf in jax.tree.leaves(params))


def _git_commit() -> str | None:
  """Returns the commit of the code, with what was changed since as a hash."""
  # An installed copy may lie inside somebody else's repository.
  if _git('ls-files', '--error-unmatch', '__init__.py') is None:
    return None
  commit = _git('describe', '--always', '--dirty', '--abbrev=40')
  changes = _git('diff', 'HEAD') if commit and commit.endswith('-dirty') else ''
  if not changes:
    return commit
  return f'{commit}-{hashlib.sha256(changes.encode()).hexdigest()[:8]}'


def _git(*arguments: str) -> str | None:
  """Returns what git prints where the code is, None if it fails."""
  try:
    done = subprocess.run(
      ['git', *arguments],
      cwd=pathlib.Path(__file__).parent,
      capture_output=True,
      text=True,
      timeout=10,
      check=True,
    )
  except (OSError, subprocess.SubprocessError):
    return None
  return done.stdout.strip()

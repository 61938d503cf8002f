"""What produced a result: code, versions, device."""

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
  versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
  return {
    'versions': {'python': platform.python_version(), **versions},
    'git_commit': _git_commit(),
    'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
  }


def count_parameters(params: types.Params) -> int:
  """Returns the number of scalars in a tree."""
  return sum(leaf.size for leaf in jax.tree.leaves(params))


def _git_commit() -> str | None:
  """Returns the commit of the code, '-dirty' if it was changed since."""
  # An installed copy may lie inside somebody else's repository.
  if _git('ls-files', '--error-unmatch', '__init__.py') is None:
    return None
  return _git('describe', '--always', '--dirty', '--abbrev=40')


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

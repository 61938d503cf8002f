"""The official release's numbers, as the tests read them.

They lie in the directory $SAM_JAX_REFERENCE, or else in `../shared/reference`
next to the repository. A test that needs a file that is missing is skipped;
with SAM_JAX_REQUIRE_REFERENCE=1 it fails instead.
"""

import functools
import gzip
import json
import os
import pathlib
import zlib

import numpy as np
import pytest
from flax import traverse_util

_REPOSITORY = pathlib.Path(__file__).resolve().parents[1]


def path(name):
  """Returns the path of a reference file; skips or fails if it is missing."""
  default = _REPOSITORY.parent / 'shared' / 'reference'
  file = pathlib.Path(os.environ.get('SAM_JAX_REFERENCE', default)) / name
  if file.exists():
    return file
  message = (
    f'{file} is missing: set SAM_JAX_REFERENCE to the directory that holds '
    f'the numbers of the official release'
  )
  if os.environ.get('SAM_JAX_REQUIRE_REFERENCE') == '1':
    pytest.fail(message)
  return pytest.skip(message)


def load(name):
  """Returns the arrays of an .npz file, by key."""
  with np.load(path(name)) as arrays:
    return dict(arrays)


@functools.cache
def load_json(name):
  """Returns the content of a .json or .json.gz file; do not change it."""
  file = path(name)
  opened = gzip.open(file, 'rt') if file.suffix == '.gz' else file.open()
  with opened as stream:
    return json.load(stream)


@functools.cache
def names_shapes():
  """Returns {'<model>/<classes>': {'params': [[name, shape], ...], ...}}.

  'batch_stats_in_call_order' holds the statistics in the same form.
  """
  return load_json('names_shapes.json.gz')


def flatten(tree):
  """Turns nested dicts into {'a/b/kernel': array}."""
  return traverse_util.flatten_dict(tree, sep='/')


def unflatten(flat):
  """Inverse of `flatten`."""
  return traverse_util.unflatten_dict(flat, sep='/')


def select(arrays, prefix):
  """Returns the arrays below a prefix, `prefix/` taken off their keys."""
  start = prefix + '/'
  return {
    key[len(start) :]: value
    for key, value in arrays.items()
    if key.startswith(start)
  }


def fill(name, shape, salt=0, gain=1.0):
  """Returns the parameter or statistic `name` of a hash-filled fixture.

  Pseudo-random float32 values that depend on the name, the shape and the
  salt only: uniform, of standard deviation gain / sqrt(fan_in) for kernels,
  and near the identity of BatchNorm for the rest.
  """
  unit = _hash_unit(name, int(np.prod(shape)), salt).reshape(shape)
  standard = np.sqrt(3.0) * (2 * unit - 1)
  kind = name.split('/')[-1]
  values = {
    'kernel': lambda: gain * standard / np.sqrt(np.prod(shape[:-1])),
    'depthwise_kernel': lambda: gain * standard / np.sqrt(shape[0] * shape[1]),
    'scale': lambda: 1 + 0.1 * standard,
    'bias': lambda: 0.1 * standard,
    'mean': lambda: 0.1 * standard,
    'var': lambda: 1 + 0.5 * (2 * unit - 1),
  }
  return values[kind]().astype(np.float32)


def _hash_unit(name, size, salt):
  """Returns `size` numbers in [0, 1): splitmix64 of index and name."""
  seed = np.uint64(zlib.crc32(name.encode()) + int(salt))
  with np.errstate(over='ignore'):  # arithmetic modulo 2^64 is meant
    z = np.arange(size, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z += seed * np.uint64(0xBF58476D1CE4E5B9) + np.uint64(0x94D049BB133111EB)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return ((z ^ (z >> np.uint64(31))) >> np.uint64(40)) / 2.0**24


def grad_summary(flat):
  """Returns (names, norm, dot) as fixtures store them for {name: array}.

  norm is the L2 norm and dot the sum of g_i cos(0.7 i), one per sorted name.
  """
  names = sorted(flat)
  grads = [np.asarray(flat[name], np.float64).ravel() for name in names]
  norms = np.array([np.linalg.norm(g) for g in grads])
  dots = np.array([g @ np.cos(0.7 * np.arange(g.size)) for g in grads])
  return names, norms, dots

"""The reader of the official release's checkpoints."""

import gzip
import re

import jax
import msgpack
import numpy as np
import pytest
from flax import serialization

from sam_jax import models
from sam_jax.runs import initialization, legacy
from tests import legacy_files, reference

# Of the official file, which does not say them.
_SALT, _GAIN = 20201, 1.5


def _assert_same(found, expected):
  """Bit for bit, names included."""
  found, expected = reference.flatten(found), reference.flatten(expected)
  assert found.keys() == expected.keys()
  for name, array in found.items():
    assert array.dtype == np.float32, name
    np.testing.assert_array_equal(array, expected[name], err_msg=name)


def _official():
  return legacy.read(reference.path('official_checkpoint/checkpoint_3'))


def test_the_official_file_has_the_official_names_and_shapes():
  found = {k: reference.flatten(v) for k, v in _official().items()}
  listed = reference.names_shapes()['WideResnet_mini/10']
  shapes = {k: list(v.shape) for k, v in found['params'].items()}
  assert shapes == dict(listed['params'])
  shapes = {k: list(v.shape) for k, v in found['batch_stats'].items()}
  official = dict(listed['batch_stats_in_call_order'])
  assert shapes == {k.strip('/'): v for k, v in official.items()}


def test_the_official_file_has_the_values_it_was_filled_with():
  found = {k: reference.flatten(v) for k, v in _official().items()}
  for name, array in found['params'].items():
    filled = reference.fill(name, array.shape, _SALT, _GAIN)
    np.testing.assert_array_equal(array, filled, err_msg=name)
  for name, array in found['batch_stats'].items():
    filled = reference.fill(name, array.shape, _SALT)
    np.testing.assert_array_equal(array, filled, err_msg=name)


def test_the_official_names_are_those_of_our_model():
  model = models.create('WideResnet_mini', num_classes=10)
  shapes = jax.eval_shape(
    lambda: initialization.init_variables(
      model, np.zeros((1, 32, 32, 3), np.float32), 0
    )
  )
  found = jax.tree.map(lambda x: x.shape, _official())
  assert found == jax.tree.map(lambda x: x.shape, dict(shapes))


def test_the_test_writes_files_as_the_release_did():
  path = reference.path('official_checkpoint/checkpoint_3')
  tree = serialization.msgpack_restore(path.read_bytes())
  assert legacy_files.pack(tree) == path.read_bytes()


@pytest.mark.parametrize('layout', legacy_files.LAYOUTS)
def test_every_layout_comes_back_without_its_empty_dicts(tmp_path, layout):
  variables = legacy_files.variables(0)
  file = tmp_path / 'checkpoint_7'
  file.write_bytes(legacy_files.pack(legacy_files.LAYOUTS[layout](variables)))
  assert b'Shortcut_1' in file.read_bytes()
  _assert_same(legacy.read(file), variables)


def test_the_average_is_read_and_not_what_it_averages(tmp_path):
  average, other = legacy_files.variables(0), legacy_files.variables(1)
  tree = legacy_files.with_ema(average, raw=other)
  (tmp_path / 'f').write_bytes(legacy_files.pack(tree))
  _assert_same(legacy.read(tmp_path / 'f'), average)


def test_a_model_without_batch_norm_has_no_statistics(tmp_path):
  params = legacy_files.variables(0)['params']
  tree = {'0': {'params': params}, '1': {}}
  (tmp_path / 'f').write_bytes(legacy_files.pack(tree))
  assert legacy.read(tmp_path / 'f')['batch_stats'] == {}


def test_the_newest_file_of_a_directory_is_read(tmp_path):
  (tmp_path / 'checkpoint_100').mkdir()
  for epoch in (9, 10, 2):
    content = legacy_files.pair(legacy_files.variables(epoch))
    path = tmp_path / f'checkpoint_{epoch}'
    path.write_bytes(legacy_files.pack(content))
  (tmp_path / 'checkpoint').write_bytes(b'not this one')
  (tmp_path / 'checkpoint_tmp').write_bytes(b'nor this one')
  _assert_same(legacy.read(str(tmp_path)), legacy_files.variables(10))


def test_a_directory_may_hold_a_file_named_checkpoint(tmp_path):
  content = legacy_files.pair(legacy_files.variables(0))
  (tmp_path / 'checkpoint').write_bytes(legacy_files.pack(content))
  _assert_same(legacy.read(tmp_path), legacy_files.variables(0))


def _refusal(path, content):
  """The one line with which a file is refused."""
  path.write_bytes(content)
  with pytest.raises(ValueError) as raised:
    legacy.read(path)
  message = str(raised.value)
  assert message.startswith(str(path)) and '\n' not in message
  return message


def test_a_file_that_is_cut_anywhere_is_refused(tmp_path):
  content = legacy_files.pack(legacy_files.pair(legacy_files.variables(0)))
  for length in range(len(content)):
    message = _refusal(tmp_path / 'f', content[:length])
    assert 'fetch it again' in message
  assert f'({len(content) - 1:,} bytes)' in message


def test_a_name_that_is_no_text_is_refused(tmp_path):
  content = {'0': {'params': {1: {'kernel': np.ones(2)}}}, '1': {}}
  message = _refusal(tmp_path / 'f', legacy_files.pack(content))
  assert '1/kernel is no name' in message


def test_no_flipped_bit_is_a_traceback_or_another_structure_unseen(tmp_path):
  """The values have no checksum; all else is refused, or another name."""
  original = legacy_files.variables(0)
  content = legacy_files.pack(legacy_files.pair(original))
  shapes = jax.tree.map(np.shape, original)
  outcomes = {'refused': 0, 'value': 0, 'name': 0}
  for position in range(len(content)):
    damaged = bytearray(content)
    damaged[position] ^= 1 << position % 8
    (tmp_path / 'f').write_bytes(damaged)
    try:
      found = legacy.read(tmp_path / 'f')
    except ValueError as error:
      assert '\n' not in str(error)
      outcomes['refused'] += 1
    else:
      same = jax.tree.map(np.shape, found) == shapes
      outcomes['value' if same else 'name'] += 1
  assert min(outcomes.values()) > 0


_ONES = np.ones(3, np.float32)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'', 'cannot be read'),
    (gzip.compress(b'a' * 1000, mtime=0), 'unpack it if it is an archive'),
    (msgpack.packb([1, 2]), 'it holds a list'),
    (msgpack.packb({}), 'it holds nothing'),
    (msgpack.packb({'params': {}, 'epoch': 1}), 'it holds epoch, params, exp'),
    (msgpack.packb({'0': {'params': 1}, '1': {}}), 'it holds 0, 1'),
    (
      legacy_files.pack({'0': {'params': {'a': {'b': 1}}}, '1': {}}),
      'a/b should be an array of real numbers, found int',
    ),
    (
      legacy_files.pack(
        {'0': {'params': {'a': _ONES.astype(np.int32)}}, '1': {}}
      ),
      'a should be an array of real numbers, found int32',
    ),
    (
      legacy_files.pack({'0': {'params': {'a': _ONES}}, '1': {'/b': 2}}),
      'b should be an array of real numbers, found int',
    ),
  ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, content, message):
  assert re.search(re.escape(message), _refusal(tmp_path / 'f', content))


def test_a_directory_without_a_checkpoint_is_refused(tmp_path):
  with pytest.raises(ValueError, match=r'no run directory.*checkpoint_<N>'):
    legacy.read(tmp_path)


def test_a_path_that_is_not_there_is_said(tmp_path):
  with pytest.raises(FileNotFoundError, match='there is no .*/missing'):
    legacy.read(tmp_path / 'missing')

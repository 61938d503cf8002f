"""The .npz checkpoints of ViT and MLP-Mixer, as init_from reads them."""

import io
import pickle
import re
import zipfile

import numpy as np
import pytest
import scipy.ndimage
from flax import traverse_util

from sam_jax import models
from sam_jax.runs import npz, positions, pretrained
from tests import vit_files, zoo

_VIT = {
  'patch': vit_files.PATCH,
  'width': vit_files.WIDTH,
  'depth': vit_files.DEPTH,
  'heads': vit_files.HEADS,
  'mlp_width': vit_files.MLP,
}
_MIXER = {
  'patch': vit_files.PATCH,
  'width': vit_files.WIDTH,
  'depth': vit_files.DEPTH,
  'tokens_mlp_width': vit_files.TOKENS_MLP,
  'channels_mlp_width': vit_files.MLP,
}
_HEAD = {'head/kernel', 'head/bias'}
_INFO = {
  'num_classes': vit_files.CLASSES,
  'mean': (0.48, 0.46, 0.41),
  'std': (0.23, 0.22, 0.24),
}


def _shapes(side=8, classes=vit_files.CLASSES, name='vit', **fields):
  sizes = {'vit': _VIT, 'mixer': _MIXER}[name] | fields
  model = models.create(name, num_classes=classes, **sizes)
  return zoo.abstract_variables(model, (1, side, side, 3))


def _load(path, variables, classes=vit_files.CLASSES, info=None):
  """The parameters by name."""
  loaded = pretrained.load(str(path), variables, classes, info)
  return traverse_util.flatten_dict(loaded['params'], sep='/')


def _assert_equal(found, expected):
  assert found.keys() == expected.keys()
  for name, array in found.items():
    np.testing.assert_array_equal(array, expected[name], err_msg=name)


@pytest.mark.parametrize('name', ['vit', 'mixer'])
@pytest.mark.parametrize('prefix', ['', 'opt/target/'])
def test_a_file_has_every_array_of_the_model(tmp_path, name, prefix):
  arrays = getattr(vit_files, name)()
  stored = {f'{prefix}{key}': array for key, array in arrays.items()}
  if prefix:  # an optimizer's state lies beside the parameters
    stored['opt/state/step'] = np.array(3)
  path = vit_files.write(tmp_path / 'B_16.npz', stored)
  _assert_equal(_load(path, _shapes(name=name)), arrays)


def test_another_number_of_classes_gets_a_new_head(tmp_path, capsys):
  arrays = vit_files.vit(classes=21, pre_logits=True)
  path = vit_files.write(tmp_path / 'a.npz', arrays)
  found = _load(path, _shapes())
  assert found['head/kernel'].shape == (vit_files.WIDTH, vit_files.CLASSES)
  kept = {k: v for k, v in arrays.items() if k not in _HEAD}
  kept = {k: v for k, v in kept.items() if not k.startswith('pre_logits')}
  _assert_equal({k: v for k, v in found.items() if k not in _HEAD}, kept)
  assert capsys.readouterr().out.endswith(
    '; pre_logits is left out; classifier head is new: 21 -> 5 classes\n'
  )


def test_the_layer_before_a_head_that_stays_is_not_left_out(tmp_path):
  path = vit_files.write(tmp_path / 'a.npz', vit_files.vit(pre_logits=True))
  with pytest.raises(ValueError, match='params/pre_logits/bias is unexpected'):
    _load(path, _shapes())
  found = _load(path, _shapes(representation_size=vit_files.WIDTH))
  assert {'pre_logits/kernel', 'pre_logits/bias'} < found.keys()


@pytest.mark.parametrize(('old', 'new'), [(2, 5), (4, 2), (1, 3)])
def test_positions_are_resized_to_another_grid(tmp_path, capsys, old, new):
  arrays = vit_files.vit(grid=old)
  path = vit_files.write(tmp_path / 'a.npz', arrays)
  found = _load(path, _shapes(side=new * vit_files.PATCH))
  name = 'Transformer/posembed_input/pos_embedding'
  given, resized = arrays[name][0], found[name][0]
  np.testing.assert_array_equal(resized[0], given[0])
  given = given[1:].reshape(old, old, -1)
  resized = resized[1:].reshape(new, new, -1)
  places = np.linspace(0, old - 1, new)
  for row, column in np.ndindex(new, new):
    at = [[places[row]], [places[column]]]
    expected = [
      scipy.ndimage.map_coordinates(given[..., i], at, order=1)[0]
      for i in range(vit_files.WIDTH)
    ]
    np.testing.assert_allclose(resized[row, column], expected, atol=1e-5)
  _assert_equal(
    {k: v for k, v in found.items() if k != name},
    {k: v for k, v in arrays.items() if k != name},
  )
  out = capsys.readouterr().out
  assert f'; positions {old}x{old} -> {new}x{new}\n' in out


def test_a_model_of_the_data_computes_what_the_checkpoint_does(tmp_path):
  arrays = vit_files.vit()
  path = vit_files.write(tmp_path / 'a.npz', arrays)
  pixels = np.random.default_rng(2).uniform(size=(3, 8, 8, 3))
  expected = vit_files.vit_logits(arrays, 2 * pixels - 1)
  normalised = (pixels - _INFO['mean']) / _INFO['std']
  moved = _load(path, _shapes(), info=_INFO)
  found = vit_files.vit_logits(moved, normalised)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
  other = vit_files.vit_logits(arrays, normalised)
  assert np.abs(other - expected).max() > 0.1


def test_the_first_array_that_does_not_fit_is_named(tmp_path):
  arrays = vit_files.vit()
  name = 'Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel'
  arrays[name] = arrays[name][:, 1:]
  del arrays['cls']
  path = vit_files.write(tmp_path / 'a.npz', arrays)
  message = f'params/{name} is of another shape: needs [8, 12], found [8, 11]'
  with pytest.raises(ValueError, match=re.escape(message)):
    _load(path, _shapes())


@pytest.mark.parametrize('side', [8, 12])
def test_positions_of_another_classifier_are_refused(tmp_path, side):
  arrays = vit_files.vit()
  path = vit_files.write(tmp_path / 'a.npz', arrays)
  with pytest.raises(ValueError, match='cannot be resized, because 5'):
    _load(path, _shapes(side=side, classifier='gap'))


def _npz(**arrays):
  stream = io.BytesIO()
  np.savez(stream, **arrays)
  return stream.getvalue()


def _npy(array):
  stream = io.BytesIO()
  np.save(stream, array)
  return stream.getvalue()


def _stored(name, content):
  stream = io.BytesIO()
  with zipfile.ZipFile(stream, 'w') as archive:
    archive.writestr(name, content)
  return stream.getvalue()


_GOOD = _npz(**{'head/bias': np.ones(300, np.float32)})
_HUGE = b"\x93NUMPY\x01\x00F\x00{'descr': '<f4', 'fortran_order': False, "
_HUGE += b"'shape': (99999999999999,)}\n"


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'', 'cannot be read as an .npz file of arrays'),
    (b'not an archive', 'cannot be read as an .npz file of arrays'),
    (_GOOD[:-30], 'cannot be read as an .npz file of arrays'),
    (_GOOD[:200] + b'\xff' * 9 + _GOOD[209:], 'cannot be read as an .npz file'),
    (pickle.dumps({'head': 1}), 'cannot be read as an .npz file of arrays'),
    (_npz(), 'holds no arrays'),
    (_npy(np.ones(3)), 'cannot be read as an .npz file of arrays'),
    (_stored('head/bias.npy', _HUGE), 'cannot be read as an .npz file'),
    (_stored('head/bias', b'text'), 'head/bias should be an array of real'),
    (_npz(x=np.array([None, 'text'])), 'Object arrays cannot be loaded'),
    (_npz(x=np.arange(3)), 'x should be an array of real numbers, found int64'),
    (
      _npz(**{'a/b': np.ones(2), 'a/b/c': np.ones(2)}),
      'has an array a/b and, in it, a/b/c',
    ),
  ],
)
def test_what_is_no_checkpoint_is_refused_in_one_line(
  tmp_path, content, message
):
  path = tmp_path / 'a.npz'
  path.write_bytes(content)
  with pytest.raises(ValueError, match=re.escape(message)) as caught:
    pretrained.read(path)
  assert str(caught.value).startswith(str(path))
  assert '\n' not in str(caught.value)


def test_every_single_file_that_is_cut_short_is_refused(tmp_path):
  path = tmp_path / 'a.npz'
  whole = vit_files.write(path, {'cls': np.ones(3, np.float32)}).read_bytes()
  for length in range(0, len(whole), 7):
    path.write_bytes(whole[:length])
    with pytest.raises(ValueError, match=r'^.*a\.npz cannot be read as an'):
      npz.read(path)


def test_what_is_not_finite_is_refused(tmp_path):
  arrays = vit_files.vit()
  arrays['head/bias'][1] = np.nan
  path = vit_files.write(tmp_path / 'a.npz', arrays)
  with pytest.raises(ValueError, match='params/head/bias has values'):
    _load(path, _shapes())


def test_an_archive_is_known_by_its_content_too(tmp_path):
  path = tmp_path / 'ViT-B_16'
  vit_files.write(tmp_path / 'a.npz', vit_files.vit()).rename(path)
  found = pretrained.read(path)['params']
  _assert_equal(traverse_util.flatten_dict(found, sep='/'), vit_files.vit())


def test_positions_of_a_model_without_any_stay_out_of_it():
  variables = {'params': {'Dense_0': {'kernel': np.ones((2, 3))}}}
  found, words = positions.resize(variables, variables, 'S')
  assert (found, words) == (variables, None)

"""A run belongs to its data: others are refused, or announced, by name."""

import shutil

import numpy as np
import pytest

from sam_jax import analysis, datasets
from sam_jax.runs import bootstrap, dry_run, identity, loading, preparation
from tests import image_files, tiny

FIELDS = tiny.PLAIN | {
  'method.name': 'sgd',
  'data.name': 'image_folder',
  'data.train_size': None,
  'data.image_size': 8,
  'batch_size': 8,
  'm': 8,
  'microbatch_size': 8,
  'num_steps': 1,
}


@pytest.fixture(autouse=True, scope='module')
def _one_device():
  with pytest.MonkeyPatch.context() as patch:
    tiny.use_devices(patch, 1)
    yield


@pytest.fixture(scope='module')
def original(tmp_path_factory):
  root = tmp_path_factory.mktemp('identity') / 'data'
  return image_files.folder(root, {'train': 6, 'test': 3}, height=9, width=9)


@pytest.fixture(scope='module')
def run(original):
  """A finished run on these data."""
  workdir = original.with_name('run')
  tiny.train(workdir, **FIELDS, **{'data.directory': str(original)})
  return workdir


@pytest.fixture
def root(original, tmp_path):
  """Data to be changed."""
  return shutil.copytree(original, tmp_path / 'other')


def _config(root, **fields):
  return tiny.config(**FIELDS | {'data.directory': str(root)} | fields)


def _rename_class(root):
  for split in ('train', 'test'):
    (root / split / 'red').rename(root / split / 'pink')


def _add_class(root):
  for split in ('train', 'test'):
    shutil.copytree(root / split / 'red', root / split / 'amber')


def _remove_image(root):
  (root / 'train' / 'red' / '000.jpg').unlink()


def _rename_image(root):
  (root / 'train' / 'red' / '000.jpg').rename(root / 'train' / 'red' / 'x.jpg')


def _change_image(root):
  content = (root / 'train' / 'blue' / '000.jpg').read_bytes()
  (root / 'train' / 'red' / '000.jpg').write_bytes(content)


def _change_test_image(root):
  content = (root / 'test' / 'blue' / '000.jpg').read_bytes()
  (root / 'test' / 'red' / '000.jpg').write_bytes(content)


def _remove_test_image(root):
  (root / 'test' / 'red' / '000.jpg').unlink()


CHANGES = [
  (_rename_class, "class 3 is 'pink', was 'red'"),
  (_add_class, 'there are 5 classes, were 4'),
  (_remove_image, '23 training images, were 24'),
  (_rename_image, 'as many training images, but with other names'),
  (
    _change_image,
    'the training images have the same names, but other contents',
  ),
  (
    _change_test_image,
    'the test images have the same names, but other contents',
  ),
  (_remove_test_image, '11 test images, were 12'),
]


def _error(call, *args, **kwargs):
  """The one line with which a call refuses its arguments."""
  with pytest.raises(ValueError) as raised:
    call(*args, **kwargs)
  (line,) = str(raised.value).splitlines()
  return line


def test_the_checkpoint_says_what_the_data_are(run, original):
  info = loading.restore(run).task.info
  assert info['classes'] == ['blue', 'green', 'grey', 'red']
  data = datasets.create('image_folder', directory=str(original))
  assert info['fingerprints'] == identity.describe(data)['fingerprints']
  assert [
    info['fingerprints'][part]['count'] for part in ('train', 'test')
  ] == [
    24,
    12,
  ]


@pytest.mark.parametrize(('change', 'words'), CHANGES)
def test_a_run_is_not_resumed_on_other_data(run, root, change, words):
  """Nor is a finished one said to be of them."""
  preparation.prepare(_config(root), run)
  change(root)
  before = tiny.tree(run)
  for call in (preparation.prepare, dry_run.run):
    line = _error(call, _config(root), run)
    assert 'the workdir holds a run on other data: ' + words in line
  assert tiny.tree(run) == before


@pytest.mark.parametrize(('change', 'words'), CHANGES)
def test_a_run_is_not_evaluated_on_other_data(run, root, change, words):
  restored = loading.restore(run)
  config, info = _config(root), restored.task.info
  change(root)
  for split, size in (('train', 24), ('test', 12)):
    if 'class' in words or _split_of(words) == split:
      line = _error(bootstrap.examples, config, run, split, info)
      assert f'not the data that the run belongs to: {words}' in line
    else:  # what was not changed can be evaluated
      found = bootstrap.examples(config, run, split, info)
      assert len(found.labels) == size


def _split_of(words):
  """The split that differs."""
  return 'train' if 'training' in words else 'test'


def test_an_analysis_refuses_other_data_too(run, root, tmp_path):
  moved = shutil.copytree(run, tmp_path / 'run')
  path = moved / 'config.json'
  path.write_text(
    path.read_text().replace(str(run.with_name('data')), str(root))
  )
  assert len(analysis.load(moved).examples.labels) == 24
  _change_image(root)
  assert 'the training images have the same names' in _error(
    analysis.load, moved
  )


def test_a_split_that_came_or_went_is_named(run, root):
  info = loading.restore(run).task.info
  config = _config(root, **{'data.split': 'validation'})
  shutil.copytree(root / 'test', root / 'val')
  line = _error(bootstrap.examples, config, run, 'validation', info)
  assert "there is a split 'validation', there was none" in line
  # The test split alone was evaluated, and is the same.
  preparation.prepare(_config(root), run)
  shutil.rmtree(root / 'val')
  bootstrap.examples(config, run, 'validation', info)


def test_labels_come_from_a_run_on_the_same_images(run, root, tmp_path):
  config = _config(root, labels_from=str(run))
  _change_test_image(root)  # which are not labelled
  info = identity.describe(datasets.create('image_folder', directory=str(root)))
  bootstrap.check(config, info)
  _change_image(root)
  line = _error(_begin, config, tmp_path / 'second')
  assert 'was trained on other data: the training images have' in line
  assert not (tmp_path / 'second' / 'config.json').exists()


def _begin(config, workdir):
  with preparation.begin(config, workdir) as begun:
    return begun


def _start(root, run, tmp_path, capsys):
  """The classifier and the other layers of a run from another; what is said."""
  config = _config(root, init_from=str(run))
  begun = _begin(config, tmp_path / 'tuned')
  dense = {k: v for k, v in begun.state.params.items() if 'Dense' in k}
  old = loading.restore(run).variables['params']
  same = {
    name: bool((np.asarray(new['kernel']) == old[name]['kernel']).all())
    for name, new in dense.items()
  }
  return same, capsys.readouterr().out


@pytest.mark.parametrize(
  ('change', 'words', 'is_new'),
  [
    (lambda root: None, '', False),
    (_change_image, 'it was trained on other data: the training images', False),
    (_rename_class, "other data: class 3 is 'pink', was 'red'", True),
  ],
)
def test_pretrained_weights_of_other_data_are_announced(
  run, root, tmp_path, capsys, change, words, is_new
):
  change(root)
  same, said = _start(root, run, tmp_path, capsys)
  assert (words in said) if words else ('other data' not in said)
  assert ('classifier Dense_1 is new' in said) == is_new
  assert same == {'Dense_0': True, 'Dense_1': not is_new}


def test_a_data_set_of_ones_own_is_compared_too():
  """One that was not made by `create`, of any tree of arrays."""

  class Own:
    train = {'tokens': np.arange(6)}
    evaluation = {'tokens': np.arange(3)}
    info = {'vocabulary': 6}

  old = identity.describe(Own)
  assert identity.difference(identity.describe(Own), old, ['train']) is None
  Own.train = {'tokens': np.arange(6)[::-1]}
  new = identity.describe(Own)
  assert identity.difference(new, old, ['train'], 'texts') == (
    'as many training texts, but with other contents'
  )
  assert identity.difference(new, old, ['evaluation']) is None
  Own.train = object()  # of which nothing is known
  assert 'train' not in identity.describe(Own)['fingerprints']


def test_processes_that_train_together_have_the_same_data(monkeypatch):
  monkeypatch.setattr(identity.jax, 'process_count', lambda: 2)
  first = []
  monkeypatch.setattr(
    identity.parallel,
    'from_first_process',
    lambda digest: (first.append(digest) or first)[0],
  )
  monkeypatch.setattr(identity.parallel, 'any_process', lambda value: value)
  identity.check_processes({'num_classes': 2, 'classes': ['a', 'b']})
  identity.check_processes({'classes': ['a', 'b'], 'num_classes': 2})
  with pytest.raises(ValueError, match='this process has other data'):
    identity.check_processes({'num_classes': 2, 'classes': ['a', 'c']})


def test_what_is_not_known_is_not_compared():
  known = {'num_classes': 2, 'classes': ['a', 'b'], 'image_shape': [2, 2, 1]}
  assert identity.difference(known, {}, ['train']) is None
  assert identity.difference({}, known, ['train']) is None
  assert (
    identity.difference(known, known | {'image_shape': [2, 2, 3]}, [])
    == 'images have the shape [2, 2, 1], had [2, 2, 3]'
  )


def test_training_on_one_class_alone_is_refused(tmp_path, monkeypatch):
  """Of a data set that says it has more, whatever it is read from."""
  images = np.zeros((20, 4, 4, 3), np.uint8)
  examples = datasets.Examples(images, np.full(20, 3, np.int32))
  source = datasets.Source(
    examples, examples, 4, (0.5,) * 3, (0.5,) * 3, classes=tuple('abcd')
  )
  monkeypatch.setitem(
    datasets.registry._LOADERS, 'one_class', lambda directory, seed: source
  )
  fields = dict.fromkeys(('data.directory', 'data.image_size'))
  config = _config('', **fields, **{'data.name': 'one_class'})
  line = _error(_begin, config, tmp_path / 'run')
  assert "all 20 training examples are of one class, 'd', and" in line
  assert not (tmp_path / 'run' / 'config.json').exists()

import shutil
import struct

import numpy as np
import pytest

from sam_jax import datasets
from sam_jax.datasets import text, tokenization, windows


def _windows(count, size):
  """Returns a split whose token i is i."""
  return windows.Windows(np.arange(count, dtype=np.uint16), size)


@pytest.mark.parametrize('size', [1, 3, 4, 7])
@pytest.mark.parametrize('batch_size', [1, 3, 100])
def test_an_evaluation_predicts_each_token_but_the_first_once(size, batch_size):
  split = _windows(23, size)
  predicted, rows = [], 0
  for batch in windows.eval_batches(split, batch_size):
    assert batch['tokens'].shape == (batch_size, size + 1)
    is_real = np.arange(size) < batch['length'][:, None]
    is_real &= batch['mask'][:, None] > 0
    inputs, targets = batch['tokens'][:, :-1], batch['tokens'][:, 1:]
    np.testing.assert_array_equal(targets[is_real], inputs[is_real] + 1)
    predicted += targets[is_real].tolist()
    rows += int(batch['mask'].sum())
  assert predicted == list(range(1, 23))
  assert rows == len(split)


@pytest.mark.parametrize(
  ('count', 'size'), [(101, 7), (99, 7), (8, 7), (50, 1)]
)
def test_an_epoch_predicts_all_but_a_few_tokens_at_the_ends(count, size):
  split = _windows(count, size)
  stream = windows.train_batches(split, 1, seed=3)
  orders = []
  for _ in range(4):  # epochs
    starts = []
    for _ in range(len(split)):
      batch = next(stream)
      (tokens,) = batch['tokens'].tolist()
      assert tokens == list(range(tokens[0], tokens[0] + size + 1))
      assert batch['length'].tolist() == [size]
      starts.append(tokens[0])
    orders.append(starts)
    predicted = [s + 1 + i for s in starts for i in range(size)]
    assert len({*starts}) == len(starts)
    for token in range(size + 1, count - size):
      assert predicted.count(token) == 1
    assert {*range(1, count - size + 1)} <= {*predicted} <= {*range(1, count)}
  if count > 90:
    assert len({*map(tuple, orders)}) == 4
    # They begin elsewhere in another epoch, and not in another order only.
    assert len({tuple(sorted(starts)) for starts in orders}) > 1


def test_a_batch_is_that_of_its_seed_and_step_on_any_number_of_processes():
  split = _windows(200, 5)

  def batches(start=0, shard=None, seed=1):
    stream = windows.train_batches(
      split, 8, seed=seed, start_step=start, shard=shard
    )
    return [next(stream) for _ in range(12)]  # 4 steps in an epoch

  whole = batches()
  parts = [batches(shard=shard) for shard in ((0, 2), (2, 8))]
  for step, (batch, *halves) in enumerate(zip(whole, *parts, strict=True)):
    for name, values in batch.items():
      joined = np.concatenate([half[name] for half in halves])
      np.testing.assert_array_equal(values, joined)
    resumed = batches(start=step)[0]
    np.testing.assert_array_equal(batch['tokens'], resumed['tokens'])
  first, other = whole[0]['tokens'], batches(seed=2)[0]['tokens']
  assert (first != other).any()


@pytest.mark.parametrize('unit', ['a', 'line of text\n', 'ä€😀', '\n\n'])
def test_splits_follow_each_other_and_never_overlap(unit):
  rng = np.random.default_rng(0)
  for _ in range(20):
    content = (unit * int(rng.integers(1, 300))).encode()
    shares = rng.uniform(0, 0.45, 2)
    parts = text.cut(content, *shares)
    assert list(parts) == ['train', 'validation', 'test']
    assert b''.join(parts.values()) == content
    for part in parts.values():
      part.decode('utf-8')  # no character is cut
    expected = np.array([1 - sum(shares), *shares]) * len(content)
    lengths = [len(part) for part in parts.values()]
    np.testing.assert_allclose(lengths, expected, atol=2 * len(unit.encode()))
  assert list(text.cut(b'abc', 0.0, 0.5)) == ['train', 'test']


def test_the_embedded_text_is_the_same_for_both_splits_and_repeats_nothing():
  of = {
    split: text.create('python_manual', split=split)
    for split in ('test', 'validation')
  }
  contents = {
    name: bytes(part.tokens) for name, part in of['test'].splits.items()
  }
  assert bytes(of['validation'].train.tokens) == contents['train']
  for split, dataset in of.items():
    assert bytes(dataset.evaluation.tokens) == contents[split]
  whole = b''.join(contents.values())
  assert 300_000 < len(whole) < 2_000_000
  # Many topics of help() are a part of a longer one.
  paragraphs = [' '.join(p.split()) for p in whole.decode().split('\n\n')]
  assert len({*paragraphs}) == len(paragraphs)
  assert of['test'].info == {
    'vocabulary_size': 256,
    'context_length': 256,
    'tokenizer': 'bytes',
    'bytes_known': True,
    'origin': of['test'].origin,
  }


def test_the_text_files_of_a_directory_are_joined_in_order(tmp_path):
  for name, content in {
    'b.txt': b'two\n',
    'a/z.MD': b'one',
    'c.py': b'no',
    '.git/x.txt': b'no',
    'd.txt': b'',
    'e.rst': b'three\n\xff',
  }.items():
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
  source = text.registry.find_loader('text', {}, 'text')(str(tmp_path), 0)
  assert source.content == b'one\ntwo\nthree\n\xff\n'
  one = text.registry.find_loader('text', {}, 'text')(str(tmp_path / 'c.py'), 0)
  assert one.content == b'no\n'


def _tokenizer(path, size=30):
  """Writes a tokenizer.json of words; returns its path."""
  tokenizers = pytest.importorskip('tokenizers')
  vocabulary = {'[UNK]': 0} | {f'w{i + 10}': i + 1 for i in range(size - 1)}
  made = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(vocabulary, unk_token='[UNK]')
  )
  made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  made.save(str(path))
  return str(path)


def test_a_tokenizer_file_makes_tokens_and_counts_their_bytes(tmp_path):
  words = [f'w{i % 29 + 10}' for i in range(900)]
  content = ' '.join(words[:600]) + '\n' + ' '.join(words[600:])
  (tmp_path / 'a.txt').write_text(content)
  dataset = text.create(
    'text',
    directory=str(tmp_path),
    split='validation',
    context_length=4,
    tokenizer=_tokenizer(tmp_path / 'tokenizer.json'),
    validation_share=1 / 3,
    test_share=0.0,
  )
  assert dataset.vocabulary_size == 30
  ids = [1 + i % 29 for i in range(900)]
  assert dataset.train.tokens.tolist() == ids[:600]
  assert dataset.evaluation.tokens.tolist() == ids[600:]
  split = dataset.evaluation
  predicted = len(' '.join(words[600:]).encode()) + 1 - len(words[600])
  np.testing.assert_allclose(split.bytes_per_token * 299, predicted)
  again = tokenization.of(dataset.info['tokenizer'])
  assert again.decode([3, 4]).split() == [b'w12', b'w13']


def _write_tokens(directory, **splits):
  for name, tokens in splits.items():
    np.array(tokens, '<u2').tofile(directory / f'{name}.bin')


def test_token_files_are_mapped_and_have_their_own_splits(tmp_path):
  _write_tokens(tmp_path, train=range(100), val=range(50, 70))
  dataset = text.create(
    'tokens',
    directory=str(tmp_path),
    split='validation',
    context_length=8,
    vocabulary_size=100,
  )
  assert isinstance(dataset.train.tokens, np.memmap)
  assert dataset.evaluation.tokens.tolist() == [*range(50, 70)]
  assert not dataset.info['bytes_known']
  batch = next(windows.train_batches(dataset.train, 2, seed=0))
  assert set(batch) == {'tokens', 'length', 'position'}
  assert batch['tokens'].dtype == np.int32


def test_debians_bible_is_unpacked(tmp_path):
  if shutil.which('gzip') is None:
    pytest.skip('no gzip')
  pieces = [b'Ge1:1 In the beginning\n' * 3, b'Ge1:2 And the earth\n' * 4]
  size = len(pieces[0])
  packed = [_compress(piece) for piece in pieces]
  first = 0x54 + 4 * 4
  header = b'EC02Compressed Data File'.ljust(0x54, b'\0')
  table = struct.pack('>4I', size, 2, first, first + len(packed[0]))
  (tmp_path / 'bible.data').write_bytes(header + table + b''.join(packed))
  dataset = text.create(
    'bible', directory=str(tmp_path), context_length=8, test_share=0.2
  )
  content = b''.join(bytes(p.tokens) for p in dataset.splits.values())
  assert content == b''.join(pieces)
  for damaged in (header, header + table + packed[0][:5], b'Genesis'):
    (tmp_path / 'bible.data').write_bytes(damaged)
    with pytest.raises(ValueError, match=r'bible\.data .* damaged'):
      text.create('bible', directory=str(tmp_path))


def _compress(piece):
  """Packs less than 255 bytes by LZW without a repetition: 9 bits for each."""
  bits = sum(byte << 9 * i for i, byte in enumerate(piece))
  return bits.to_bytes(-(-9 * len(piece) // 8), 'little')


def _file(content):
  def write(directory):
    (directory / 'a.txt').write_bytes(content)
    return {'directory': str(directory)}

  return write


def _tokens(name='a.bin', **fields):
  def write(directory):
    _write_tokens(directory, train=range(100), val=range(20))
    return {'directory': str(directory), **fields}

  return write


def _odd(directory):
  _write_tokens(directory, train=range(100))
  (directory / 'val.bin').write_bytes(b'123')
  return {'directory': str(directory)}


def _with_tokenizer(content, **fields):
  def write(directory):
    (directory / 'a.txt').write_bytes(content)
    path = _tokenizer(directory / 'tokenizer.json')
    return {'directory': str(directory), 'tokenizer': path, **fields}

  return write


@pytest.mark.parametrize(
  ('name', 'make', 'message'),
  [
    ('text', lambda d: {}, 'needs data.directory'),
    ('text', lambda d: {'directory': str(d / 'x')}, 'no such file'),
    ('text', lambda d: {'directory': str(d)}, r'no file \*\.txt'),
    ('text', _file(b''), '0 tokens to train on.*window needs 257'),
    ('text', _file(b'ab' * 140), '253 tokens to train on.*needs 257'),
    ('text', _with_tokenizer(b'\xff' * 900), 'not UTF-8.*at byte 0'),
    (
      'text',
      _with_tokenizer(b'w11 w37 ' * 900, vocabulary_size=20),
      "split 'train': the largest id of a token is 28, .*vocabulary has 20.*29",
    ),
    (
      'text',
      lambda d: _file(b'{}')(d) | {'tokenizer': str(d / 'a.txt')},
      'data.tokenizer is .*no tokenizer.json',
    ),
    ('text', lambda d: {'tokenizer': str(d / 'x')}, 'there is no such file'),
    (
      'python_manual',
      lambda d: {'validation_share': 0.6, 'test_share': 0.4},
      'validation_share is 0.6 and data.test_share 0.4',
    ),
    ('python_manual', lambda d: {'test_share': 0.0}, "no split 'test'"),
    ('python_manual', lambda d: {'directory': str(d)}, 'leave out'),
    ('python_manual', lambda d: {'label_noise': 0.1}, 'a text has no labels'),
    ('python_manual', lambda d: {'context_length': 0}, 'context_length is 0'),
    ('python_manual', lambda d: {'train_size': 9}, "no option.*'train_size'"),
    ('tokens', lambda d: {}, 'needs data.directory'),
    ('tokens', lambda d: {'directory': str(d)}, 'there is no .*train.bin'),
    ('tokens', _tokens(), r'set data\.vocabulary_size, at least 100'),
    (
      'tokens',
      _tokens(vocabulary_size=99),
      'largest id of a token is 99, and the vocabulary has 99',
    ),
    (
      'tokens',
      _tokens(vocabulary_size=100, context_length=8),
      "no split 'test' to evaluate on; it has 'validation'",
    ),
    ('tokens', _tokens(test_share=0.1), 'splits of its own'),
    ('tokens', _odd, 'val.bin has 3 bytes'),
    ('bible', lambda d: {'directory': str(d)}, 'apt-get install bible-kjv'),
    ('digits', lambda d: {}, "'digits' is of images.*takes text: bible"),
    ('shakespeare', lambda d: {}, 'unknown data set'),
  ],
)
def test_what_cannot_be_used_is_refused_in_a_line(
  tmp_path, name, make, message
):
  with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
    text.create(name, **make(tmp_path))
  assert '\n' not in str(error.value)


def test_images_are_not_text():
  with pytest.raises(ValueError, match='is of text, and the task takes images'):
    datasets.create('python_manual')

"""The command that prints text of a language model."""

import numpy as np
import pytest

from sam_jax import generate
from sam_jax.datasets import tokenization
from sam_jax.runs import loading
from tests import tiny, tiny_text

_LENGTH = tiny_text.FIELDS['data.context_length']


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run of a transformer, and its text."""
  directory = tmp_path_factory.mktemp('run')
  text = tiny_text.write(tmp_path_factory.mktemp('text'), 'häufig ')
  model = {'name': 'gpt', 'width': 16, 'depth': 1, 'heads': 2}
  fields = {'model': model, 'data.directory': text, 'plugins': ()}
  fields |= {'optimizer.name': 'adamw', 'optimizer.momentum': None}
  fields |= {'method.name': 'sgd', 'learning_rate': 0.03, 'num_steps': 56}
  with pytest.MonkeyPatch.context() as patch:
    tiny.use_devices(patch, 1)
    tiny.train(directory, **tiny_text.FIELDS | fields)
  return directory


@pytest.fixture
def printed(command, run):
  """`printed(*arguments)`: what the command prints of the run."""

  def call(*arguments):
    done = command('generate', f'--workdir={run}', *arguments)
    assert done.status == 0, done.err
    return done.out

  return call


def _likeliest(run, prompt, count):
  """Looks at the last bytes, and adds the most probable one."""
  restored = loading.restore(run)
  tokens = list(prompt.encode())
  for _ in range(count):
    window = np.zeros((1, _LENGTH), np.int32)
    last = tokens[-_LENGTH:]
    window[0, : len(last)] = last
    logits = restored.apply_fn(restored.variables, window, train=False)
    tokens.append(int(np.argmax(logits[0, len(last) - 1])))
  return bytes(tokens).decode(errors='replace')


def test_the_likeliest_text_is_that_of_the_model(printed, run):
  text = printed('--prompt=hä', '--tokens=20', '--temperature=0')
  assert text == _likeliest(run, 'hä', 20) + '\n'
  assert 'ä' in text.removeprefix('hä')  # of two bytes


def test_the_seed_decides_what_is_printed(printed):
  one, two = (printed('--tokens=30', f'--seed={seed}') for seed in (1, 2))
  assert one != two
  # Without a prompt nothing precedes what is drawn.
  assert printed('--tokens=0') == '\n'


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--top_k=300'], 'top_k is 300; the vocabulary has 256 tokens'),
    (['--temperature=-1'], 'temperature is -1.0; give a number from 0'),
    (['--checkpoint=7'], 'no checkpoint 7'),
    (['--tokens=-1'], 'tokens'),
    (['and', 'more'], 'unknown arguments: and more'),
  ],
  ids=str,
)
def test_bad_flags_are_one_line(command, run, arguments, message):
  done = command('generate', f'--workdir={run}', *arguments)
  assert (done.status, done.out) == (2, '')
  assert message in done.err
  assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
  ('info', 'message'),
  [
    ({}, "only a model of 'language_modelling' writes text"),
    ({'tokenizer': None}, 'tokenizer'),
  ],
)
def test_a_run_without_text_is_refused(
  command, monkeypatch, run, info, message
):
  restored = loading.restore(run)
  restored.task.info = info
  monkeypatch.setattr(loading, 'restore', lambda *_, **__: restored)
  done = command('generate', f'--workdir={run}')
  assert (done.status, done.out) == (2, '')
  assert message in done.err


@pytest.mark.parametrize(
  ('tokens', 'pieces'),
  [
    (b'\xa9A\xe2\x82\xac', ['é', 'A', '€']),
    (b'A\xe2', ['\N{REPLACEMENT CHARACTER}A', '\N{REPLACEMENT CHARACTER}']),
    (b'', ['\N{REPLACEMENT CHARACTER}']),
  ],
)
def test_a_character_is_printed_when_it_is_whole(tokens, pieces):
  bytes_ = tokenization.ByteTokenizer()
  found = list(generate.pieces(bytes_, [*b'x', 0xC3], tokens))
  assert found == ['x', *pieces]

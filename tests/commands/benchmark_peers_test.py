"""Workers, and what times them in turn."""

import contextlib
import io
import json
import os
import subprocess
import sys

import pytest

from scripts import benchmark_peers
from scripts.benchmarking import checkout, workers
from tests import tiny

_FAKE = """
import json, sys
facts = {{'name': 'fake', 'parameters': 7, 'flops': 1000, 'compile_s': 0.5,
         'memory_bytes': None, 'versions': {{}}, 'device': 'cpu', **{facts}}}
print('loading', file=sys.stderr)
{before}
print(json.dumps(facts), flush=True)
for done, line in enumerate(sys.stdin):
  assert json.loads(line) == {{'steps': 3}}
  {during}
  print(json.dumps({{'seconds': {seconds}}}), flush=True)
"""


@pytest.fixture
def fake(tmp_path):
  """Returns the command of a worker that only says that it takes steps."""

  def make(label, *, seconds=1.0, before='', during='', **facts):
    path = tmp_path / f'{label}.py'
    text = _FAKE.format(
      facts=facts, seconds=seconds, before=before, during=during
    )
    path.write_text(text)
    return benchmark_peers.Command(label, [sys.executable, '-S', str(path)])

  return make


def _compare(*commands):
  rows = benchmark_peers.compare(commands, rounds=2, count=3)
  return {row['label']: row for row in rows}


def test_each_worker_is_compared_with_ours_in_the_same_round(fake):
  found = _compare(
    fake('ours', seconds='[2.0, 4.0][done]'),
    fake('a', seconds='[1.0, 6.0][done]', flops=1004, memory_bytes=1024),
    # What goes wrong with one is a line, and the others are timed.
    fake('larger', parameters=1_008),
    fake('deeper', flops=1_006),
    fake('unable', before='raise SystemExit("no torch here")'),
    fake('mute', before='facts = {}'),
    fake(
      'honest', before='print(json.dumps({"error": "too large"})); sys.exit(1)'
    ),
    fake('mortal', during='if done: raise MemoryError("all gone")'),
    benchmark_peers.Command('absent', ['/no/such/program']),
    fake('z', seconds=3.0),
  )
  assert list(found) == (
    'ours a larger deeper unable mute honest mortal absent z'.split()
  )
  assert found['ours']['ratio'] == {'median': 1, 'min': 1, 'max': 1}
  assert found['a']['ratio'] == {'median': 1, 'min': 0.5, 'max': 1.5}
  assert found['a']['step_ms']['median'] == 3500
  assert found['a']['memory_bytes'] == 1024
  assert found['z']['ratio']['max'] == 1.5
  errors = {k: row['error'] for k, row in found.items() if 'error' in row}
  assert errors.pop('larger') == (
    'larger: the network differs from ours: 1,008 parameters, not 7'
  )
  assert '1,006 operations in a step, not 1,000' in errors.pop('deeper')
  assert 'exit status 1, and it said: no torch here' in errors.pop('unable')
  assert 'does not say name, parameters' in errors.pop('mute')
  assert errors.pop('honest') == 'honest: too large'
  assert 'MemoryError: all gone' in errors.pop('mortal')
  assert 'No such file' in errors.pop('absent')
  assert not errors


def test_without_ours_the_others_are_timed_but_not_compared(fake):
  found = _compare(fake('ours', before='sys.exit(3)'), fake('a', seconds=2.0))
  assert 'exit status 3' in found['ours']['error']
  assert found['a']['ratio'] is None
  assert found['a']['step_ms']['max'] == 2000


def test_the_table_and_the_figures_have_every_case(
  command, fake, monkeypatch, tmp_path
):
  started = []

  def script(python, name, arguments):
    del python
    started.append((name, *arguments))
    seconds = {'step': 2.0, 'torch': 3.0, 'optax': 1.0}[name]
    return fake(name, seconds=seconds).arguments

  path = tmp_path / 'out.json'
  name = 'scripts.benchmark_peers'
  command(name, '--methods=nothing')  # reloads the module once
  from scripts import benchmark_peers as module

  monkeypatch.setattr(module, '_script', script)
  monkeypatch.setattr(
    sys,
    'argv',
    [name, '--networks=cnn:8,gpt-tiny:4', '--peers=compile,channels_last,optax',
     '--methods=sam', '--rounds=1', '--steps=3', f'--json={path}'],
  )  # fmt: skip
  with pytest.raises(SystemExit) as stop:
    module.cli()
  assert not stop.value.code
  found = json.loads(path.read_text())
  cases = [(row['network'], row['label']) for row in found['rows']]
  of_images = ['ours', 'torch compile', 'torch channels_last', 'optax']
  of_text = ['ours', 'torch compile', 'optax']
  assert cases == [
    *(('cnn', label) for label in of_images),
    *(('gpt-tiny', label) for label in of_text),
  ]
  ratios = {row['label']: row['ratio']['median'] for row in found['rows']}
  assert ratios['torch compile'] == 1.5
  assert found['rounds'] == 1
  assert '--context_length=128' in started[-1]
  assert {'--layout=channels_last', '--compile'} <= set(started[1])


@pytest.mark.parametrize(
  ('flag', 'message'),
  [
    ('--networks=cnn', "--networks has 'cnn'; write NAME:BATCH"),
    ('--networks=cnn:0', 'write NAME:BATCH'),
    ('--peers=jax', '--peers has jax; known are eager'),
    ('--compute_dtype=bfloat16', "optax's worker computes in float32"),
    ('--methods=looksam', '--methods has looksam; known are sgd, sam'),
  ],
)
def test_what_is_not_known_is_refused(command, flag, message):
  done = command('scripts.benchmark_peers', flag)
  assert done.status == 2
  assert message in done.err


def test_another_commit_has_its_package_and_these_scripts(tmp_path):
  def git(*arguments):
    identity = ['-c', 'user.name=n', '-c', 'user.email=e']
    subprocess.run(
      ['git', *identity, *arguments],
      cwd=tmp_path,
      check=True,
      capture_output=True,
    )

  (tmp_path / 'scripts').mkdir()
  (tmp_path / 'scripts' / 'a.py').write_text('old')
  (tmp_path / 'scripts' / 'benchmarking.py').write_text('old')
  (tmp_path / 'package.py').write_text('old')
  git('init')
  git('add', '.')
  git('commit', '-m', 'old')
  (tmp_path / 'scripts' / 'a.py').write_text('new')
  (tmp_path / 'scripts' / 'benchmarking.py').unlink()
  (tmp_path / 'scripts' / 'benchmarking').mkdir()
  (tmp_path / 'scripts' / 'benchmarking' / 'b.py').write_text('new')
  (tmp_path / 'package.py').write_text('new')
  with checkout.of(tmp_path, 'HEAD') as place:
    assert (place / 'package.py').read_text() == 'old'
    assert (place / 'scripts' / 'a.py').read_text() == 'new'
    assert (place / 'scripts' / 'benchmarking' / 'b.py').read_text() == 'new'
    assert not (place / 'scripts' / 'benchmarking.py').exists()
  assert not place.exists()
  with checkout.of(tmp_path, None) as place:
    assert place is None
  with (
    pytest.raises(ValueError, match=r'--commit: git says .*no_such'),
    checkout.of(tmp_path, 'no_such_revision'),
  ):
    pass


@contextlib.contextmanager
def _output(path):
  """Has this process's own standard output go into a file."""
  kept = os.dup(1)
  with path.open('wb') as stream:
    os.dup2(stream.fileno(), 1)
  try:
    yield
  finally:
    os.dup2(kept, 1)
    os.close(kept)


def test_only_answers_are_on_standard_output(tmp_path):
  path = tmp_path / 'output'
  with _output(path):
    with workers.answers() as answer:
      print('a stray line')
      os.write(1, b'one of a library of C\n')
      answer({'seconds': 1})
    os.write(1, b'after\n')
  assert path.read_text() == '{"seconds": 1}\nafter\n'


# What ours and optax's say of themselves, of one network.
def test_ours_and_optax_are_workers(command, monkeypatch, tmp_path):
  tiny.use_devices(monkeypatch, 1)
  shape = ('--batch_size=8', '--image_size=8', '--serve')

  def said(name, *arguments):
    monkeypatch.setattr(sys, 'stdin', io.StringIO('{"steps": 1}\n'))
    path = tmp_path / name
    with _output(path):
      done = command(f'scripts.benchmark_{name}', *arguments, *shape)
    assert done.status == 0, done.err
    facts, answer = map(json.loads, path.read_text().splitlines())
    assert answer['seconds'] > 0
    return facts

  ours = said('step', '--model=cnn', '--methods=sam')
  optax = said('optax', '--network=cnn', '--method=sam')
  for facts in (ours, optax):
    assert set(workers.FACTS) <= set(facts)
  for name in ('parameters', 'flops'):
    assert ours[name] == optax[name]


def test_a_worker_that_fails_says_why(command, monkeypatch, tmp_path):
  monkeypatch.setattr(sys, 'stdin', io.StringIO())
  path = tmp_path / 'output'
  with _output(path):
    done = command(
      'scripts.benchmark_step', '--serve', '--model=no_such', '--methods=sam'
    )
  assert done.status == 1
  assert 'no_such' in json.loads(path.read_text())['error']

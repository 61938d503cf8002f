"""A run on a text, from training to its sharpness, by the commands."""

import json
import runpy
import sys

import pytest

from sam_jax.runs import metrics_log
from sam_jax.sweeps import results
from tests import tiny, tiny_text


@pytest.fixture(autouse=True, scope='module')
def _one_device():
  with pytest.MonkeyPatch.context() as patch:
    tiny.use_devices(patch, 1)
    tiny.share_programs(patch, {})
    yield


@pytest.fixture(scope='module')
def fields(tmp_path_factory):
  """Fields of a run of an epoch and a bit, 14 steps each."""
  directory = tiny_text.write(tmp_path_factory.mktemp('text'))
  return tiny_text.FIELDS | {
    'data.directory': directory,
    'num_steps': 16,
    'eval_batch_size': 3,
    'checkpoint.every_steps': 10,
  }


@pytest.fixture(scope='module')
def run(tmp_path_factory, fields):
  directory = tmp_path_factory.mktemp('run')
  tiny.train(directory, **fields)
  return directory


def test_a_run_is_scored_by_bits_per_byte(run):
  result = json.loads((run / 'result.json').read_text())
  first, last = (line for line in metrics_log.read(run) if 'test/loss' in line)
  assert result['score']['metric'] == 'bits_per_byte'
  assert result['final_score'] == last['test/bits_per_byte']
  assert last['test/bits_per_byte'] < first['test/bits_per_byte'] < 8
  assert last['test/perplexity'] > 1
  assert {'train/loss', 'train/error_rate', 'train/bits_per_byte'} <= {*last}


def test_a_run_is_resumed_where_it_was(monkeypatch, run, tmp_path, fields):
  tiny.crash_at(monkeypatch, tmp_path, 13, **fields)
  tiny.train(tmp_path, **fields)
  tiny.assert_same_run(run, tmp_path)


@pytest.mark.parametrize(
  ('words', 'message'),
  [
    ('abcaB ', 'as many training windows, but with other contents'),
    ('abcab', '94 training windows, were 112'),
  ],
)
def test_a_run_belongs_to_its_text(run, tmp_path, fields, words, message):
  other = tiny_text.write(tmp_path, words)
  with pytest.raises(ValueError, match=f'other data: {message}'):
    tiny.train(run, **fields | {'data.directory': other})


def test_evaluate_finds_what_the_run_found(command, run, tmp_path):
  table = tmp_path / 'p.csv'
  arguments = (f'--workdir={run}', f'--output={table}')
  done = command('evaluate', *arguments, '--no_plugins')
  assert (done.status, 'plug-ins are refused' in done.err) == (2, True)
  done = command('evaluate', *arguments, '--batch_size=4')
  assert done.status == 0, done.err
  logged = metrics_log.read(run)[-1]
  summary = json.loads(done.out)
  for name in ('loss', 'bits_per_byte', 'error_rate', 'perplexity'):
    assert summary[name] == pytest.approx(logged[f'test/{name}'], rel=1e-5)
  header, *rows = table.read_text().splitlines()
  assert header == 'index,tokens,loss,error_rate,bits_per_byte'
  assert len(rows) == summary['examples'] == 7
  assert [row.split(',')[1] for row in rows] == ['8'] * 6 + ['1']
  # It is never trained on, whatever the run was evaluated on.
  done = command('evaluate', *arguments, '--split=validation')
  assert done.status == 0, done.err
  done = command('evaluate', *arguments, f'--directory={tmp_path / "x"}')
  assert (done.status, 'no such file' in done.err) == (2, True)


@pytest.mark.parametrize(
  'arguments',
  [
    ('sharpness', '--m=4', '--groups=2', '--samples=1', '--ascent_steps=1'),
    ('evaluation', '--split=test'),
  ],
  ids=lambda arguments: arguments[0],
)
def test_its_sharpness_is_measured(command, run, arguments):
  done = command('analyze', *arguments, f'--workdir={run}', '--examples=8')
  assert done.status == 0, done.err
  (path,) = (run / 'analysis').glob(f'{arguments[0]}-*.json')
  result = json.loads(path.read_text())['result']
  if arguments[0] == 'sharpness':
    assert result['num_groups'] == 2
    assert result['measures']['one_ascent_step']['mean'] > 0
  else:
    # The last window, which is not whole, is left out.
    assert result['examples'] == 6
    mean = result['metrics']['bits_per_byte']['mean']
    logged = metrics_log.read(run)[-1]['test/bits_per_byte']
    assert mean == pytest.approx(logged, rel=0.05)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (('python_manual',), 'python_manual: all is well'),
    (('text',), 'needs data.directory'),
    (('--list',), 'text: the King James Bible; Debian bible-kjv-text'),
  ],
  ids=str,
)
def test_prepare_data_knows_texts(command, arguments, message):
  done = command('prepare_data', *arguments)
  assert message in done.out + done.err


def test_what_a_run_has_forgotten(run, tmp_path, fields):
  sys_path = list(sys.path)
  forgetting = runpy.run_path('scripts/examples/forgetting.py')
  sys.path[:] = sys_path
  (first,) = results.collect(run).runs
  same = forgetting['_numbers'](first, run)
  assert same['forgotten'] == pytest.approx(0, abs=1e-5)
  other = tiny_text.write(tmp_path, 'xyzxyz')
  new = {'data.directory': other, 'init_from': str(run), 'learning_rate': 0.5}
  tiny.train(tmp_path / 'new', **fields | new)
  found = forgetting['_numbers'](first, tmp_path / 'new')
  assert found['before'] == same['before'] < found['after']
  assert found['on the new text'] < found['after']

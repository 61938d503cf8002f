import json

import pytest

from sam_jax.runs import metrics_log


def _write(directory, steps, *, start_step=0):
  """Logs step + start_step / 10, so that starts differ.

  What a start finds is a row for each step.
  """
  writer = metrics_log.MetricWriter(directory, _first(directory, start_step))
  for step in steps:
    value = step + start_step / 10
    writer.write(step, step / 5, {'train/loss': value})
  writer.close()


def _first(directory, number):
  """What a checkpoint after some rows knows of them."""
  rows = metrics_log.read(directory)[:number] if number else []
  return metrics_log.Rows.of(rows)


def test_a_line_is_a_json_object_with_step_and_epoch(tmp_path):
  writer = metrics_log.MetricWriter(tmp_path)
  writer.write(3, 0.6, {'train/loss': 0.1, 'test/error_rate': 0.25})
  writer.close()
  (line,) = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert json.loads(line) == {
    'step': 3,
    'epoch': 0.6,
    'train/loss': 0.1,
    'test/error_rate': 0.25,
  }


def test_a_line_can_be_read_while_the_run_goes_on(tmp_path):
  writer = metrics_log.MetricWriter(tmp_path)
  writer.write(1, 0.2, {'train/loss': 0.5})
  assert [line['step'] for line in metrics_log.read(tmp_path)] == [1]
  writer.close()


@pytest.mark.parametrize('start_step', [0, 3])
def test_what_was_logged_beyond_the_start_is_cut(tmp_path, start_step):
  _write(tmp_path, [1, 2, 3, 4, 5])
  _write(tmp_path, range(start_step + 1, 7), start_step=start_step)
  kept = [(step, float(step)) for step in range(1, start_step + 1)]
  new = [(step, step + start_step / 10) for step in range(start_step + 1, 7)]
  lines = [(x['step'], x['train/loss']) for x in metrics_log.read(tmp_path)]
  assert lines == kept + new


def test_rows_that_are_about_to_be_cut_are_counted(tmp_path):
  assert metrics_log.count(tmp_path) == 0
  _write(tmp_path, [1, 2, 3])
  with (tmp_path / 'metrics.jsonl').open('a') as stream:
    stream.write('{"step": 4, "epo')
  assert metrics_log.count(tmp_path) == 3


def test_a_restart_leaves_earlier_lines_as_they_were(tmp_path):
  writer = metrics_log.MetricWriter(tmp_path)
  writer.write(1, 1 / 3, {'train/loss': 0.1 + 0.2, 'train/b': 1e-30})
  writer.close()
  before = (tmp_path / 'metrics.jsonl').read_bytes()
  metrics_log.MetricWriter(tmp_path, writer.rows).close()
  assert (tmp_path / 'metrics.jsonl').read_bytes() == before


@pytest.mark.parametrize('torn', ['{"step": 2, "epo', '{', '{"step": 2'])
def test_a_torn_last_line_is_not_read_and_not_kept(tmp_path, torn):
  _write(tmp_path, [1])
  path = tmp_path / 'metrics.jsonl'
  path.write_text(path.read_text() + torn)
  assert [line['step'] for line in metrics_log.read(tmp_path)] == [1]
  _write(tmp_path, [2], start_step=1)
  lines = path.read_text().splitlines()
  assert [json.loads(line)['step'] for line in lines] == [1, 2]


def test_a_last_line_that_lacks_only_its_end_is_kept(tmp_path):
  _write(tmp_path, [1, 2])
  path = tmp_path / 'metrics.jsonl'
  path.write_text(path.read_text().rstrip('\n'))
  _write(tmp_path, [3], start_step=2)
  assert [line['step'] for line in metrics_log.read(tmp_path)] == [1, 2, 3]


def test_what_was_synced_is_in_the_file_before_it_is_closed(tmp_path):
  """A kill leaves them as they are then."""
  writer = metrics_log.MetricWriter(tmp_path)
  for step in range(1, 101):
    writer.write(step, step / 5, {'train/loss': float(step)})
  writer.sync()
  steps = list(range(1, 101))
  assert [line['step'] for line in metrics_log.read(tmp_path)] == steps
  writer.close()


# --- Damage; tests/faults/damage_test.py has all kinds ------------------------

_ROWS = [{'step': i, 'epoch': i / 5, 'step/loss': 1 / i} for i in (1, 2, 3, 4)]
_KNOWN = metrics_log.Rows.of(_ROWS)


def _put(directory, *rows):
  """Writes metrics.jsonl; a row may be bytes."""
  lines = [
    row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows
  ]
  (directory / 'metrics.jsonl').write_bytes(b'\n'.join(lines) + b'\n')


@pytest.mark.parametrize(
  'rows',
  [
    _ROWS,
    [*_ROWS, {'step': 5, 'epoch': 1}, b'{"st'],
    [*_ROWS[:2], *_ROWS],
    [_ROWS[1], _ROWS[0], *_ROWS[2:]],
    [b'', b'{"step": 1', b'\xff', b'[]', b'{"step": null, "epoch": 1}', *_ROWS],
    [json.dumps(row, indent=None).replace(' ', '').encode() for row in _ROWS],
  ],
  ids=['whole', 'longer', 'doubled', 'another order', 'no rows', 'no spaces'],
)
def test_the_rows_that_a_checkpoint_knows_of_are_found(tmp_path, rows):
  _put(tmp_path, *rows)
  assert metrics_log.find(tmp_path, _KNOWN) == _ROWS
  _write(tmp_path, [])  # a writer that does not expect them cuts all
  assert metrics_log.read(tmp_path) == []


@pytest.mark.parametrize(
  'rows',
  [
    _ROWS[:3],
    [*_ROWS[:2], {**_ROWS[2], 'step/loss': 9.0}, _ROWS[3]],
    [_ROWS[0], {'step': 1, 'epoch': 0.2, 'step/loss': 9.0}, *_ROWS[1:]],
    [],
  ],
  ids=['missing', 'changed', 'foreign', 'empty'],
)
def test_rows_that_are_not_there_are_one_line(tmp_path, rows):
  _put(tmp_path, *rows)
  with pytest.raises(
    ValueError, match=r'metrics\.jsonl .*first 4 rows'
  ) as raised:
    metrics_log.find(tmp_path, _KNOWN)
  assert '\n' not in str(raised.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path):
  with pytest.raises(ValueError, match=r'metrics\.jsonl is missing.* 4 rows'):
    metrics_log.find(tmp_path, _KNOWN)
  assert metrics_log.find(tmp_path, metrics_log.Rows()) == []


@pytest.mark.parametrize('line', [b'\xff', b'{"step": 1', b'3', b'{"step": 1}'])
def test_reading_names_a_line_that_is_no_row(tmp_path, line):
  _put(tmp_path, _ROWS[0], line, _ROWS[1])
  with pytest.raises(ValueError, match=r'metrics\.jsonl is damaged: line 2 '):
    metrics_log.read(tmp_path)


def test_reading_a_directory_is_one_line(tmp_path):
  (tmp_path / 'metrics.jsonl').mkdir()
  with pytest.raises(ValueError, match=r'metrics\.jsonl cannot be read'):
    metrics_log.read(tmp_path)


@pytest.mark.parametrize('replaced', [False, True])
def test_what_is_deleted_while_the_run_is_going_is_written_again(
  tmp_path, capsys, replaced
):
  writer = metrics_log.MetricWriter(tmp_path)
  path = tmp_path / 'metrics.jsonl'
  for row in _ROWS[:2]:
    writer.write(row['step'], row['epoch'], {'step/loss': row['step/loss']})
  path.unlink()
  if replaced:
    path.write_text('something else')
  for row in _ROWS[2:]:
    writer.write(row['step'], row['epoch'], {'step/loss': row['step/loss']})
  writer.sync()
  said = capsys.readouterr().err
  assert f'{path} was deleted or replaced' in said
  assert said.count('\n') == 1
  assert metrics_log.read(tmp_path) == _ROWS
  assert writer.rows == _KNOWN
  writer.write(5, 1.0, {'step/loss': 0.0})  # to the file with that name
  writer.close()
  assert len(metrics_log.read(tmp_path)) == 5

import json
import re
import subprocess

import jax
import numpy as np

from sam_jax.runs import provenance


def test_a_result_says_what_produced_it():
  described = provenance.describe()
  assert described['versions']['jax'] == jax.__version__
  assert described['versions']['numpy'] == np.__version__
  assert described['device'] == f'8 x {jax.devices()[0].device_kind}'
  json.dumps(described)


def test_outside_a_checkout_there_is_no_commit(monkeypatch, tmp_path):
  monkeypatch.setattr(
    provenance, '__file__', str(tmp_path / 'runs' / 'module.py')
  )
  monkeypatch.setenv('GIT_CEILING_DIRECTORIES', str(tmp_path.parent))
  assert provenance.describe()['git_commit'] is None


def test_without_git_there_is_no_commit(monkeypatch):
  monkeypatch.setenv('PATH', '')
  assert provenance.describe()['git_commit'] is None


def test_parameters_are_counted_as_scalars():
  params = {'a': np.zeros((2, 3)), 'b': {'c': np.zeros(4), 'd': np.zeros(())}}
  assert provenance.count_parameters(params) == 11


def test_one_set_of_changes_is_told_from_another(monkeypatch, tmp_path):
  def git(*arguments):
    options = ('-c', 'user.name=a', '-c', 'user.email=a@b')
    command = ['git', '-C', str(tmp_path), *options, *arguments]
    subprocess.run(command, check=True, capture_output=True)

  monkeypatch.setattr(
    provenance, '__file__', str(tmp_path / 'runs' / 'module.py')
  )
  git('init')
  code = tmp_path / '__init__.py'
  code.write_text('')
  git('add', '.')
  git('commit', '-m', 'Add')
  found = [provenance.describe()['git_commit']]
  (tmp_path / 'notes.txt').write_text('not of the package')
  for change in ('a = 1', 'a = 2 # \xe9', 'a = 1'):
    code.write_text(change + '\n', 'latin-1')
    found.append(provenance.describe()['git_commit'])
  clean, one, other, again = found
  assert re.fullmatch('[0-9a-f]{40}', clean)
  assert re.fullmatch(f'{clean}-dirty-[0-9a-f]{{8}}', one)
  assert one == again != other

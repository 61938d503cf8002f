"""The notebook runs, and shows what its text says."""

import os
import re

import pytest

from tests.docs import pages

_NOTEBOOK = pages.DOCS / 'notebooks' / 'drop_in.ipynb'
_MAX_BYTES = 300_000


def _printed(notebook):
  """Returns what the cells of a notebook have printed."""
  outputs = [o for cell in notebook.cells for o in cell.get('outputs', ())]
  return ''.join(o.text for o in outputs if o.output_type == 'stream')


def _numbers(text):
  """Returns the test errors, eigenvalues and sharpnesses, SGD's first."""
  words = ('test error', 'eigenvalue', '25-sharpness')
  return [
    [float(x) for x in re.findall(rf'{word} ([\d.]+)', text)] for word in words
  ]


def _pictures(notebook):
  outputs = [o for cell in notebook.cells for o in cell.get('outputs', ())]
  return [o for o in outputs if 'image/png' in o.get('data', {})]


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')  # those of Jupyter's client
def test_the_notebook_runs_and_sam_is_better_and_flatter(monkeypatch):
  nbclient = pytest.importorskip('nbclient')
  nbformat = pytest.importorskip('nbformat')
  paths = [str(pages.ROOT), os.environ.get('PYTHONPATH', '')]
  monkeypatch.setenv('PYTHONPATH', os.pathsep.join(filter(None, paths)))
  monkeypatch.setenv('XLA_FLAGS', '')  # one device, as a reader has
  stored = nbformat.read(_NOTEBOOK, as_version=4)
  assert _NOTEBOOK.stat().st_size < _MAX_BYTES
  run = nbformat.from_dict(stored)
  nbclient.NotebookClient(run, timeout=None, kernel_name='python3').execute()
  for notebook in (stored, run):
    assert len(_pictures(notebook)) == 2
    for sgd, sam in _numbers(_printed(notebook)):
      assert sam < 0.7 * sgd

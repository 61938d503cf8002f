"""The script that makes the runs that come with the package."""

import zipfile

import pytest

from sam_jax.runs import loading, shipped
from tests import tiny


@pytest.mark.slow
def test_the_runs_are_trained_and_packed(command, monkeypatch, tmp_path):
  tiny.use_devices(monkeypatch, 1)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  out = tmp_path / 'out'
  done = command('scripts.ship_runs', '--epochs=1', f'--directory={out}')
  assert done.status == 0, done.err
  assert [path.stem for path in sorted(out.glob('*.zip'))] == shipped.names()
  for name in shipped.names():
    with zipfile.ZipFile(out / f'{name}.zip') as archive:
      archive.extractall(tmp_path / name)
    restored = loading.restore(tmp_path / name)
    assert restored.step == 40
    # Only the length is another one than that of the run in the package.
    kept = loading.restore(name).config
    kept.num_epochs = 1
    assert restored.config == kept

"""The site is built without a warning, and without a network."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from urllib import parse

import pytest

from tests import tiny
from tests.docs import pages

_EXTERNAL = re.compile(r'(?<!`)\bhttps?://[^\s)>"\'`]+')


@pytest.fixture(scope='module')
def site_reference():
  path = pages.ROOT / 'scripts' / 'site_reference.py'
  spec = importlib.util.spec_from_file_location('site_reference', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.mark.slow
def test_the_site_is_built_strictly_and_loads_nothing_from_elsewhere(tmp_path):
  # A warning, such as a link or an anchor that leads nowhere, or a page without
  # a place in .nav.yml, fails the build.
  done = subprocess.run(
    [sys.executable, '-m', 'mkdocs', 'build', '--site-dir', str(tmp_path)],
    cwd=pages.ROOT,
    env=os.environ | {'NO_MKDOCS_2_WARNING': '1'},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  for path in tmp_path.rglob('*.html'):
    text = path.read_text(encoding='utf-8')
    loaded = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="?http', text)
    assert not loaded, f'{path}: {loaded}'
    assert '<!-- made:' not in text


def test_external_links_have_the_form_of_an_address():
  # Whether they lead anywhere is not asked: tests have no network.
  for name in pages.names():
    text = (pages.ROOT / name).read_text(encoding='utf-8')
    for link in _EXTERNAL.findall(text):
      address = parse.urlsplit(link)
      assert '.' in address.netloc and address.scheme == 'https', (name, link)


def test_every_field_of_the_config_is_in_the_reference(site_reference):
  from sam_jax.configs import default
  from sam_jax.runs import config_files

  listed = [name for field in site_reference.fields() for name in field.names]
  config = default.get_config()
  sections = {name for name in config if hasattr(config[name], 'items')}
  assert set(listed) | sections == set(config_files.names(config))
  assert len(listed) == len(set(listed))
  assert all(field.comment for field in site_reference.fields())


def test_the_readme_is_one_page():
  assert len((pages.ROOT / 'README.md').read_text('utf-8').splitlines()) <= 150


@pytest.mark.slow
def test_every_command_is_in_the_reference(site_reference):
  text = site_reference.commands()
  for name in ('train', 'sweep', 'report', 'compare_methods'):
    assert f'## {name}\n' in text
  assert '`--workdir` string\n:   Run directory' in text


@pytest.mark.slow
def test_every_metric_and_key_of_a_run_is_in_the_reference(
  command, tmp_path, monkeypatch
):
  tiny.use_devices(monkeypatch, 1)
  done = command(
    'train',
    *('--config=digits', f'--workdir={tmp_path}/run', '--config.num_steps=4'),
    *('--config.model.features=(4,)', '--config.model.hidden=8'),
    *('--config.method.every=2', '--config.method.ascent_share=0.5'),
    *('--config.compute_dtype=bfloat16', '--config.on_nonfinite=skip'),
    *('--config.eval_train=True', '--config.log.every_steps=1'),
  )
  assert done.status == 0, done.err
  log = (tmp_path / 'run' / 'metrics.jsonl').read_text('utf-8')
  keys = {key for line in log.splitlines() for key in json.loads(line)}
  names = {key.rpartition('/')[2] for key in keys}
  # A metric of the perturbed pass is listed with that of the clean one.
  names -= {'perturbed_metric_examples'}
  result = json.loads((tmp_path / 'run' / 'result.json').read_text('utf-8'))
  for page, wanted in (('metrics', names), ('files', set(result))):
    text = (pages.DOCS / 'reference' / f'{page}.md').read_text('utf-8')
    assert wanted <= set(re.findall(r'`([a-z0-9_]+)`', text)), page


def test_blocks_and_commands_are_found():
  (first, second) = pages.blocks_of(
    'Text\n\n<!-- run -->\n```sh\nFOO=1 sam-find-rho --a=1 \\\n'
    '    --b >out && python -m sam_jax.train --c # no\nls\n```\n\n'
    '    ```python title="x.py"\n    a = 1\n    ```\n'
  )
  assert first.marker == 'run' and first.line == 5
  assert pages.commands(first.code) == [
    ('sam_jax.find_rho', ['--a=1', '--b']),
    ('sam_jax.train', ['--c']),
  ]
  assert second == pages.Block('python', 'x.py', '', 'a = 1\n', 11)

"""What mkdocs calls while it builds the site; see mkdocs.yml.

- The first page is README.md, so that there is one first page and not two.
- `<!-- made: NAME -->` in a page is replaced by what a function of
  site_reference.py makes of the code's own comments and flags.
- A fence `math` holds LaTeX, as on GitHub; it becomes MathML, which browsers
  show without a script.
"""

import functools
import html
import pathlib
import posixpath
import re
import sys
from collections.abc import Mapping
from typing import Any

import site_reference
from latex2mathml import converter
from mkdocs import exceptions
from mkdocs.config import defaults
from mkdocs.structure import files as files_lib, pages

_ROOT = pathlib.Path(__file__).resolve().parents[1]

_MADE = re.compile(r'^<!-- made: (\w+) -->$', re.MULTILINE)
_LINK = re.compile(r'(\]\(|src=")docs/')
_RELATIVE = re.compile(r'\[([^\]]+)\]\((\.\./[^)#:]+)\)')
# Of the first page, whose contents are on its right.
_FRONT_MATTER = '---\nhide: [navigation]\n---\n'


def on_config(config: defaults.MkDocsConfig) -> defaults.MkDocsConfig:
  """Adds the fence `math`, and finds the checkout and its scripts."""
  # The checkout goes first, installed or not. mkdocs puts back what a hook
  # changes of the path when it is imported.
  sys.path[:0] = [str(_ROOT), str(_ROOT / 'scripts')]
  fence = {'name': 'math', 'class': 'math', 'format': _formula}
  extension = config.mdx_configs.setdefault('pymdownx.superfences', {})
  extension['custom_fences'] = [fence]
  return config


def on_files(
  files: files_lib.Files, *, config: defaults.MkDocsConfig
) -> files_lib.Files:
  """Adds the first page."""
  text = (_ROOT / 'README.md').read_text(encoding='utf-8')
  text = _FRONT_MATTER + _LINK.sub(r'\1', text)
  files.append(files_lib.File.generated(config, 'index.md', content=text))
  return files


def on_page_markdown(markdown: str, *, page: pages.Page, **_: Any) -> str:
  """Fills in what is made, and names the files that the site lacks."""
  text = _RELATIVE.sub(functools.partial(_unless_outside, page), markdown)
  text = text.replace(' ± ', '\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}')
  return _MADE.sub(functools.partial(_made, page), text)


def _unless_outside(page: pages.Page, match: re.Match[str]) -> str:
  """Returns a link, or its text if it leads out of docs/: to no page."""
  folder = posixpath.dirname(page.file.src_uri)
  target = posixpath.normpath(posixpath.join(folder, match.group(2)))
  return match.group(1) if target.startswith('../') else match.group(0)


def _made(page: pages.Page, match: re.Match[str]) -> str:
  """Returns what stands in the place of a marker."""
  name = match.group(1)
  if name not in site_reference.TABLES:
    raise exceptions.PluginError(
      f'{page.file.src_uri}: nothing makes {name!r}; scripts/site_reference.py '
      f'makes {", ".join(site_reference.TABLES)}'
    )
  return site_reference.TABLES[name]()


def _formula(
  source: str,
  language: str,
  css_class: str,
  options: Mapping[str, Any],
  md: Any,
  **_: Any,
) -> str:
  """Returns a formula as MathML; the arguments are those of superfences."""
  del language, options, md
  # What it cannot read it leaves in the text, as \name.
  made = converter.convert(source, display='block')
  if unread := re.findall(r'\\[a-zA-Z]+', html.unescape(made)):
    raise exceptions.PluginError(f'cannot show {unread[0]} of {source!r}')
  return f'<div class="{css_class}">{made}</div>'

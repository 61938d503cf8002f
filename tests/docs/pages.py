"""The pages of the site, and the blocks of code in them.

A fenced block is what its first word says; what precedes it, and its title, say
what is done with it:

- `python`: executed, in order, in the page's namespace and temporary directory.
- any language with title="NAME": written to the file NAME there, and not
  executed. Modules that are written so can be imported.
- `sh`: each command of ours is parsed, with its flags and the fields of its
  config. After a line `<!-- run -->` it is also run, in the same directory.
- After a line `<!-- not run: REASON -->` nothing of this is done, but commands
  are parsed all the same.
"""

import pathlib
import re
import shlex
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCS = ROOT / 'docs'

_BLOCK = re.compile(
  r'^(?P<indent> *)(?P<fence>```+|~~~+) *(?P<info>[^\n`]*)\n'
  r'(?P<code>.*?)^(?P=indent)(?P=fence) *$',
  re.MULTILINE | re.DOTALL,
)
_MARKER = re.compile(r'<!-- (run|not run: *\S.*?) -->\s*\Z')
_TITLE = re.compile(r'title="([^"]+)"')
_COMMANDS = re.compile(r'sam-[a-z-]+')
# Commands that are not called as their module is; see setup.py.
_MODULES = {'compare': 'compare_methods'}


class Block(NamedTuple):
  """A fenced block.

  Attributes:
    language: its first word; '' if there is none.
    title: name of the file that it is, or ''.
    marker: 'run', 'not run: REASON' or ''.
    code: without indentation.
    line: of the page, that the code begins at.
  """

  language: str
  title: str
  marker: str
  code: str
  line: int


def names():
  """Returns the pages, README.md included, as paths from the root."""
  paths = [ROOT / 'README.md', *sorted(DOCS.rglob('*.md'))]
  return [str(path.relative_to(ROOT)) for path in paths]


def blocks(name):
  """Returns the fenced blocks of a page."""
  return blocks_of((ROOT / name).read_text(encoding='utf-8'))


def blocks_of(text):
  """Returns the fenced blocks of a text."""
  found = []
  for match in _BLOCK.finditer(text):
    marker = _MARKER.search(text[: match.start()])
    title = _TITLE.search(match['info'])
    indent = len(match['indent'])
    found.append(
      Block(
        (match['info'].split() or [''])[0],
        title[1] if title else '',
        marker[1] if marker else '',
        ''.join(x[indent:] for x in match['code'].splitlines(True)),
        text[: match.start('code')].count('\n') + 1,
      )
    )
  return found


def commands(code):
  """Returns the commands of ours in a block: a module and its arguments."""
  found = []
  for words in _simple_commands(code):
    while words and re.fullmatch(r'\w+=.*', words[0]):  # variables
      words = words[1:]
    for at, word in enumerate(words):
      if word == '-m' and words[at + 1].startswith('sam_jax'):
        found.append((words[at + 1], words[at + 2 :]))
        break
      if _COMMANDS.fullmatch(word):
        name = word.removeprefix('sam-').replace('-', '_')
        found.append((f'sam_jax.{_MODULES.get(name, name)}', words[at + 1 :]))
        break
      if word.startswith('scripts/') and word.endswith('.py'):
        found.append((word[:-3].replace('/', '.'), words[at + 1 :]))
        break
  return found


def _simple_commands(code):
  """Yields the words of each command, cut at ;, |, && and redirections."""
  for line in code.replace('\\\n', ' ').splitlines():
    lexer = shlex.shlex(line, posix=True, punctuation_chars=';|&<>')
    lexer.whitespace_split = True
    lexer.commenters = '#'
    words = []
    is_target = False  # of a redirection
    for word in lexer:
      if set(word) <= set(';|&'):
        yield words
        words = []
      elif set(word) <= set('<>&'):
        is_target = True
      elif is_target:
        is_target = False
      else:
        words.append(word)
    yield words

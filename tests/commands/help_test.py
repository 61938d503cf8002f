"""--help of every command."""

import ast

import pytest

from tests import tiny

_COMMANDS = sorted(
  path.stem
  for path in (tiny.ROOT / 'sam_jax').glob('[!_]*.py')
  if 'flags = _cli.Flags()' in path.read_text(encoding='utf-8')
)


@pytest.mark.parametrize('name', _COMMANDS)
def test_help_lists_all_flags_and_how_to_call_the_command(command, name):
  done = command(name, '--help')
  assert (done.status, done.err) == (0, '')
  assert f'python -m sam_jax.{name} ' in done.out
  source = (tiny.ROOT / 'sam_jax' / f'{name}.py').read_text(encoding='utf-8')
  flags = {
    node.args[0].value
    for node in ast.walk(ast.parse(source))
    if isinstance(node, ast.Call)
    and getattr(node.func, 'attr', '').startswith('DEFINE_')
  }
  assert flags
  for flag in flags:
    assert f'--{flag}: ' in done.out or f'--[no]{flag}: ' in done.out
  # A line is as wide as a terminal.
  assert all(len(line) <= 80 for line in done.out.splitlines())


def test_all_commands_are_asked():
  assert {'train', 'sweep', 'report', 'find_rho', 'analyze'} < {*_COMMANDS}

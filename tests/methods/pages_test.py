"""The pages of docs/methods/ are those of the docstrings."""

import importlib.util

import pytest

from tests import tiny


@pytest.fixture(scope='module')
def method_pages():
  path = tiny.ROOT / 'scripts' / 'method_pages.py'
  spec = importlib.util.spec_from_file_location('method_pages', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_the_pages_are_as_the_script_writes_them(method_pages):
  wanted = method_pages.pages()
  found = {p.name: p.read_text('utf-8') for p in _pages(method_pages)}
  assert wanted == found, 'run python scripts/method_pages.py'


def _pages(method_pages):
  return method_pages.DIRECTORY.glob('*.md')


def test_every_method_says_what_its_fields_are_and_where_it_is_from(
  method_pages,
):
  for name in set(method_pages._names()) - {'sgd'}:
    sections = method_pages._sections(name)
    assert sections['Source'], name
    meanings = method_pages._arguments(sections['Args'])
    own = [p for p in method_pages.registry.parameters(name)]
    assert set(own) == set(meanings), name


def test_all_methods_but_those_of_plug_ins_have_a_page(method_pages):
  fields = {'sam', 'asam', 'looksam', 'msam', 'disam', 'usam'}
  assert fields < set(method_pages._names())
  assert len(method_pages._names()) == len(method_pages.pages()) - 1


def test_a_formula_is_shown_as_one(method_pages):
  text = 'Before\n\n.. math::\n  a + b \\\\\n  + c\n\nwith a.'
  assert method_pages.fenced(text) == (
    'Before\n\n```math\na + b \\\\\n+ c\n```\n\nwith a.'
  )

"""Makes our docstrings ready for griffe, which mkdocstrings reads them with."""

import re

import griffe
import method_pages

_EXAMPLE = re.compile(r'^Example:$', re.MULTILINE)


class Docstrings(griffe.Extension):
  """Formulas become fences, and `Example:` a section with doctests."""

  def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
    """Changes the docstring of an object that was read."""
    if obj.docstring:
      text = _EXAMPLE.sub('Examples:', obj.docstring.value)
      obj.docstring.value = method_pages.fenced(text)

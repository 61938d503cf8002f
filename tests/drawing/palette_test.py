"""Colours and markers of methods."""

import itertools

import numpy as np
from matplotlib import colors

from sam_jax import methods
from sam_jax.drawing import palette

# What a reader without one kind of cone sees, in linear RGB: Machado, Oliveira
# and Fernandes 2009, table 1, severity 1.
_SEEN = {
  'protan': [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
  ],
  'deutan': [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
  ],
  'tritan': [
    [1.255528, -0.076749, -0.178779],
    [-0.078411, 0.930809, 0.147602],
    [0.004733, 0.691367, 0.303900],
  ],
}
_TO_XYZ = np.array(
  [
    [0.4124, 0.3576, 0.1805],
    [0.2126, 0.7152, 0.0722],
    [0.0193, 0.1192, 0.9505],
  ]
)


def _lab(linear):
  """Returns CIELAB of linear RGB, white point D65."""
  xyz = _TO_XYZ @ np.clip(linear, 0, 1) / (_TO_XYZ @ np.ones(3))
  x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
  return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_colours_differ_for_readers_who_do_not_see_all_of_them():
  rgb = np.array([colors.to_rgb(colour) for colour in palette.COLOURS])
  linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
  for name, seen in {'all': np.eye(3), **_SEEN}.items():
    shown = [_lab(np.array(seen) @ colour) for colour in linear]
    apart = [np.linalg.norm(a - b) for a, b in itertools.combinations(shown, 2)]
    assert min(apart) > 12, (name, min(apart))  # 2 can just be noticed
    white = _lab(np.ones(3))
    assert min(np.linalg.norm(a - white) for a in shown) > 30, name


def test_a_method_looks_the_same_whatever_it_is_drawn_with():
  one = palette.styles(['sgd', 'sam', 'mine'])
  other = palette.styles(['mine', 'x', 'sam'])
  names = ('color', 'marker', 'markerfacecolor')
  for a, b in ((one[1], other[2]), (one[2], other[0])):
    assert [a[name] for name in names] == [b[name] for name in names]
  # They are also those of last year.
  assert [style['color'] for style in one[:2]] == ['#000000', '#0072b2']
  assert palette.color('sam') == '#0072b2'


def _names():
  """Returns our methods, without those that other tests have registered."""
  return [name for name in methods.names() if name in methods.__all__]


def test_methods_look_different():
  looks = {
    (style['color'], style['marker'], style['markerfacecolor'])
    for name in _names()
    for style in palette.styles([name])
  }
  assert len(looks) == len(_names()) > 40
  known = ('sgd', 'sam', 'asam', 'gsam', 'looksam', 'msam', 'friendly_sam')
  assert len({palette.color(name) for name in known}) == len(known)


def test_methods_of_one_colour_have_different_lines():
  names = [n for n in _names() if palette.color(n) == '#000000'][:3]
  lines = [style['linestyle'] for style in palette.styles(names)]
  assert lines == ['-', '--', ':']


def test_lines_of_one_method_are_shades_of_its_colour():
  one, two, three = palette.styles(['sam', 'sam', 'sam'])
  assert one['color'] == palette.color('sam')
  assert len({style['color'] for style in (one, two, three)}) == 3
  assert len({style['linestyle'] for style in (one, two, three)}) == 3
  assert one['marker'] == two['marker'] == three['marker']
  hues = [
    colors.rgb_to_hsv(colors.to_rgb(style['color']))[0]
    for style in (one, two, three)
  ]
  np.testing.assert_allclose(hues, hues[0], atol=0.01)

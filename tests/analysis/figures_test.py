"""Figures of results that are hard to draw."""

import numpy as np
from matplotlib import pyplot as plt

from sam_jax.analysis import figures


def test_a_flat_loss_can_be_drawn(tmp_path):
  flat = {'coordinates': [-1, 1], 'loss': [[0.5, 0.5], [0.5, 0.5]]}
  figures.planes(tmp_path / 'a.png', {'a': flat, 'b': flat}, 'direction')
  point = {'nodes': [[0.0]], 'weights': [[1.0]], 'eigenvalues': [0.0]}
  ends = point | {'smallest_eigenvalues': [-1.0, 0.0]}
  point['smallest_eigenvalues'] = []
  figures.spectra(tmp_path / 'b.png', {'a': point, 'b': ends})
  assert len(list(tmp_path.iterdir())) == 2


def test_many_planes_take_several_rows(tmp_path):
  flat = {'coordinates': [-1, 1], 'loss': [[0.5, 1.5], [0.5, 2.5]]}
  shapes = []
  for count in (4, 5):
    path = tmp_path / f'{count}.png'
    runs = {str(i): flat for i in range(count)}
    figures.planes(path, runs, 'direction')
    shapes.append(plt.imread(path).shape)
  assert shapes[1][1] == shapes[0][1]
  assert shapes[1][0] == 2 * shapes[0][0]


def test_what_is_not_a_number_is_left_white(tmp_path):
  """None in the results' JSON, as a loss that overflows may be."""
  along = np.linspace(-1, 1, 5)
  losses = np.add.outer(along**2, along**2) + 1
  holed = losses.tolist()
  holed[0][0] = holed[0][1] = holed[1][0] = holed[1][1] = None
  whites = []
  none = [[None] * 5] * 5
  for name, loss in (('whole', losses), ('holed', holed), ('none', none)):
    path = tmp_path / f'{name}.png'
    run = {'coordinates': along, 'loss': loss}
    figures.planes(path, {'a': run, 'b': run}, 'direction')
    pixels = plt.imread(path)[..., :3]
    whites.append(np.mean(np.all(pixels > 0.99, axis=-1)))
  assert whites[0] + 0.01 < whites[1] < whites[2]

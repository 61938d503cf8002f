"""Other norms, and a random direction: figure 6 of the paper (C.5).

    python -m sam_jax.sweep --sweep=norms --workdir=runs/p

The perturbation in a ball of the L2 and of the Linf norm, and one of a random
direction and length rho. The numbers are read off the figure. The paper says "a
wide ResNet" and CIFAR-10: WRN-40-2 here, of which the appendix speaks just
before, with the settings of table 6's WRN-28-10, 200 epochs, basic augmentation
and m = 32; five seeds. Something of that was otherwise in the paper: what is
one run here (L2, rho = 0.05) has 3.77 in this figure and 3.03 in figure 4
(second_order.py), and WRN-28-10 has 2.7 in table 1. Nor is the hardware said.

7.8 million gradient evaluations, of batches of 256.
"""

import math

from sam_jax.sweeps import cells as cells_lib, paper as paper_lib

L2 = {
  0.001: 4.49,
  0.01: 4.12,
  0.02: 4.00,
  0.03: 3.89,
  0.04: 3.81,
  0.05: 3.77,
  0.1: 3.84,
  0.25: 4.92,
}
LINF = {1e-6: 4.52, 5e-6: 4.35, 1e-5: 4.27, 5e-5: 4.21, 1e-4: 4.74}
RANDOM = {
  1.0: 4.64,
  5.0: 4.59,
  7.5: 4.40,
  10.0: 4.41,
  15.0: 4.39,
  20.0: 4.46,
  30.0: 4.82,
}
KINDS = (
  ({'method.name': 'sam', 'method.p': 2.0}, L2),
  ({'method.name': 'sam', 'method.p': math.inf}, LINF),
  ({'method.name': 'random'}, RANDOM),
)


def get_sweep() -> cells_lib.Sweep:
  """Returns 20 x 5 cells."""
  cell = {'config': 'configs/cifar10.py', 'model.name': 'WideResnet40x2'}
  cells, paper = [], []
  for kind, errors in KINDS:
    axes = ([kind], {'method.rho': errors, 'seed': range(5)})
    cells += cells_lib.product([cell], *axes)
    paper += [
      paper_lib.Paper(kind | {'method.rho': r}, e) for r, e in errors.items()
    ]
  return cells_lib.Sweep(cells, paper=paper)

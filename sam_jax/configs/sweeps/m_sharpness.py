"""m against rho: figure 3 of the paper, in the middle.

    python -m sam_jax.sweep --sweep=m_sharpness --workdir=runs/m

m = 1 to 256 examples share a perturbation, on CIFAR-10; five seeds. The best
rho grows with m, and from m = 4 on the error that it reaches too. The numbers
are read off the figure, their half widths are 0.05 to 0.11. At rho = 0 it has
5.26 to 5.42, whatever m is; once here, as m cannot matter.

The paper says "a small ResNet". If BatchNorm normalised by m examples, it would
not be rho alone that m changes, and the figure's errors at rho = 0 say that it
did not. So the network here is WRN-28-2 without BatchNorm, and its errors are
not the paper's; their order is the question. Batches of 256, and the other
settings of table 6's WRN-28-10, were chosen. The hardware is not said. What the
figure has on its left is spectrum.py; on its right, the mutual information of
m-sharpness and generalisation over the networks of a competition, is not here.

17.7 million gradient evaluations, of batches of 256. With m = 1 it takes the
memory of 256 gradients.
"""

from sam_jax.sweeps import cells as cells_lib, paper as paper_lib

RHOS = (0.001, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1)
TABLE = {
  1: (5.28, 5.06, 4.78, 4.47, 4.30, 4.33, 4.50, 5.58, 7.72),
  4: (5.28, 5.07, 4.78, 4.52, 4.29, 4.26, 4.36, 5.03, 5.97),
  16: (5.30, 5.00, 4.86, 4.55, 4.40, 4.40, 4.36, 4.52, 4.89),
  64: (5.29, 5.08, 4.94, 4.73, 4.70, 4.57, 4.54, 4.57, 4.57),
  256: (5.31, 5.16, 5.05, 4.93, 4.88, 4.81, 4.79, 4.72, 4.74),
}
SGD = 5.38  # m = 256, rho = 0


def get_sweep() -> cells_lib.Sweep:
  """Returns 5 x 9 x 5 + 5 cells."""
  cell = {
    'config': 'configs/cifar10.py',
    'model.name': 'WideResnet28x2',
    'model.norm': 'none',
    'microbatch_loop': 'vmap',
  }
  points = [
    ({'m': m, 'method.rho': rho}, error)
    for m, errors in TABLE.items()
    for rho, error in zip(RHOS, errors, strict=True)
  ]
  cells, paper = [], []
  for sizes, error in [({'m': 256, 'method.rho': 0.0}, SGD), *points]:
    fields = cell | sizes | {'microbatch_size': min(sizes['m'], 32)}
    cells += cells_lib.product([fields], {'seed': range(5)})
    paper.append(paper_lib.Paper(sizes, error))
  return cells_lib.Sweep(cells, paper=paper)

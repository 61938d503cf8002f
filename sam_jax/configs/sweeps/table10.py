"""Fine-tuning EfficientNet-b7 with rho = 0.05: table 10 of the paper (C.3).

    python -m sam_jax.sweep --sweep=table10 --workdir=runs/f

Those cells of table3.py, which says where weights and folders are expected; in
one directory with it they are run once. The paper gives no intervals.

600 thousand gradient evaluations, of batches of 1024; 64 cores of TPUv3 in the
paper, hence m = 16.
"""

from sam_jax.configs.sweeps import table3
from sam_jax.sweeps import cells as cells_lib, paper as paper_lib

# With SAM, without.
TABLE = {
  'cifar10': '0.88 0.95',
  'cifar100': '7.56 7.68',
  'fgvc_aircraft': '7.06 8.15',
  'oxford_flowers102': '0.81 1.16',
  'oxford_iiit_pet': '4.15 4.24',
  'cars196': '5.57 5.94',
  'birdsnap': '13.64 14.30',
  'food101': '7.06 7.17',
}
METHODS: tuple[cells_lib.Fields, ...] = (
  {'method.name': 'sam', 'method.rho': 0.05},
  {'method.name': 'sgd', 'method.rho': None},
)


def get_sweep() -> cells_lib.Sweep:
  """Returns 8 x 2 x 5 cells."""
  cells, paper = [], []
  for data, text in TABLE.items():
    cell, fields = table3.settings('b7', data)
    for method, number in zip(METHODS, paper_lib.numbers(text), strict=True):
      test = {'data.split': 'test'} | method
      cells += cells_lib.product([cell | test], {'seed': range(5)})
      paper.append(paper_lib.Paper(fields | method, *number))
  return cells_lib.Sweep(cells, paper=paper, smoke=table3.SMOKE)

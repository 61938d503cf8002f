"""CIFAR-10 and CIFAR-100, rho = 0.05 throughout: table 9 of the paper (C.3).

    python -m sam_jax.sweep --sweep=table9 --workdir=runs/c

The cells with SAM of table1.py, but for rho; SGD is there. In one directory
with it, what both have is run once. The paper gives no intervals.

Suspect cells: PyramidNet on CIFAR-10 has the numbers of its ShakeDrop rows,
2.1, 1.6 and 1.4; table 1 has 2.7, 1.9 and 1.6, and according to table 6 for
this rho too. The WideResNets have those of table 1 on CIFAR-100 as well, where
that has rho = 0.1.

87 million gradient evaluations, of batches of 256; 8 V100 in the paper.
"""

from sam_jax.configs.sweeps import table1
from sam_jax.sweeps import cells as cells_lib, paper as paper_lib

# CIFAR-10, CIFAR-100.
TABLE = {
  ('200', 'basic'): '2.7 16.5',
  ('200', 'cutout'): '2.3 14.9',
  ('200', 'aa'): '2.1 13.6',
  ('1800', 'basic'): '2.4 16.3',
  ('1800', 'cutout'): '2.1 14.0',
  ('1800', 'aa'): '1.6 12.8',
  ('shake_shake', 'basic'): '2.4 15.1',
  ('shake_shake', 'cutout'): '2.0 14.2',
  ('shake_shake', 'aa'): '1.7 12.8',
  ('pyramidnet', 'basic'): '2.1 15.4',
  ('pyramidnet', 'cutout'): '1.6 13.1',
  ('pyramidnet', 'aa'): '1.4 12.1',
  ('shakedrop', 'basic'): '2.1 13.3',
  ('shakedrop', 'cutout'): '1.6 11.3',
  ('shakedrop', 'aa'): '1.4 10.3',
}


def get_sweep() -> cells_lib.Sweep:
  """Returns 2 x 15 x 5 cells."""
  cells, paper = [], []
  for (row, augmentation), text in TABLE.items():
    for data, number in zip(table1.ROWS, paper_lib.numbers(text), strict=True):
      cell, fields = table1.settings(data, row, augmentation)
      epochs = table1.ROWS[data][row].epochs
      sam = {'method.name': 'sam', 'num_epochs': epochs, 'method.rho': 0.05}
      cells += cells_lib.product([cell | sam], {'seed': range(5)})
      paper.append(paper_lib.Paper(fields | sam, *number))
  return cells_lib.Sweep(cells, paper=paper)

"""CIFAR-10 and CIFAR-100: table 1 of the paper.

    python -m sam_jax.sweep --sweep=table1 --workdir=runs/c

Five networks, basic augmentation, cutout and AutoAugment; SAM with the rho of
table 6 (how it was found: rho_grid.py), SGD, and SGD for twice the epochs, of
which the paper reports the better one; five seeds. The paper trained on 8 V100,
hence m = 32. It does not print the epochs of the last three networks, nor
whether AutoAugment is with cutout: see configs/cifar10.py.

216 million gradient evaluations, of batches of 256. One network alone:
`--only=':200,'`; without the doubled runs of 1800 epochs, which gained nothing
but for the last network: `--only='^(?!.*=3600)'`.
"""

from sam_jax.configs import cifar10, cifar100
from sam_jax.sweeps import cells as cells_lib, paper as paper_lib

ROWS = {'cifar10': cifar10.ROWS, 'cifar100': cifar100.ROWS}

AUGMENTATIONS = {
  'basic': {'augmentation.name': 'basic', 'augmentation.cutout_length': 0},
  'cutout': {'augmentation.name': 'basic', 'augmentation.cutout_length': 16},
  'aa': {'augmentation.name': 'autoaugment', 'augmentation.cutout_length': 0},
}

# CIFAR-10: SAM, SGD; CIFAR-100: SAM, SGD.
TABLE = {
  ('200', 'basic'): '2.7±0.1 3.5±0.1 16.5±0.2 18.8±0.2',
  ('200', 'cutout'): '2.3±0.1 2.6±0.1 14.9±0.2 16.9±0.1',
  ('200', 'aa'): '2.1±<0.1 2.3±0.1 13.6±0.2 15.8±0.2',
  ('1800', 'basic'): '2.4±0.1 3.5±0.1 16.3±0.2 19.1±0.1',
  ('1800', 'cutout'): '2.1±0.1 2.7±0.1 14.0±0.1 17.4±0.1',
  ('1800', 'aa'): '1.6±0.1 2.2±<0.1 12.8±0.2 16.1±0.2',
  ('shake_shake', 'basic'): '2.3±<0.1 2.7±0.1 15.1±0.1 17.0±0.1',
  ('shake_shake', 'cutout'): '2.0±<0.1 2.3±0.1 14.2±0.2 15.7±0.2',
  ('shake_shake', 'aa'): '1.6±<0.1 1.9±0.1 12.8±0.1 14.1±0.2',
  ('pyramidnet', 'basic'): '2.7±0.1 4.0±0.1 14.6±0.4 19.7±0.3',
  ('pyramidnet', 'cutout'): '1.9±0.1 2.5±0.1 12.6±0.2 16.4±0.1',
  ('pyramidnet', 'aa'): '1.6±0.1 1.9±0.1 11.6±0.1 14.6±0.1',
  ('shakedrop', 'basic'): '2.1±0.1 2.5±0.1 13.3±0.2 14.5±0.1',
  ('shakedrop', 'cutout'): '1.6±<0.1 1.9±0.1 11.3±0.1 11.8±0.2',
  ('shakedrop', 'aa'): '1.4±<0.1 1.6±<0.1 10.3±0.1 10.6±0.1',
}


def settings(data: str, row: str, augmentation: str) -> tuple[dict, dict]:
  """Returns what a cell has, and what the paper's number says, but a method."""
  images = AUGMENTATIONS[augmentation]
  model = ROWS[data][row].model
  return (
    {'config': f'configs/{data}.py:{row}'} | images,
    {'data.name': data, 'data.split': 'test', 'model.name': model} | images,
  )


def get_sweep() -> cells_lib.Sweep:
  """Returns 2 x 15 x 3 x 5 cells."""
  cells, paper = [], []
  for (row, augmentation), text in TABLE.items():
    sam10, sgd10, sam100, sgd100 = paper_lib.numbers(text)
    for data, sam, sgd in (
      ('cifar10', sam10, sgd10),
      ('cifar100', sam100, sgd100),
    ):
      cell, fields = settings(data, row, augmentation)
      epochs, rho = ROWS[data][row].epochs, ROWS[data][row].rho
      for method, number in (
        ({'method.name': 'sam', 'num_epochs': epochs, 'method.rho': rho}, sam),
        ({'method.name': 'sgd', 'method.rho': None, 'num_epochs': epochs}, sgd),
        (
          {'method.name': 'sgd', 'method.rho': None, 'num_epochs': 2 * epochs},
          sgd,
        ),
      ):
        cells += cells_lib.product([cell | method], {'seed': range(5)})
        paper.append(paper_lib.Paper(fields | method, *number))
  return cells_lib.Sweep(cells, paper=paper)

"""Fine-tuning EfficientNets with the best rho: table 3 of the paper.

    python -m sam_jax.sweep --sweep=table3 --workdir=runs/f \
        --only=split=validation
    python -m sam_jax.sweep --sweep=table3 --workdir=runs/f

b7 and L2-475 on nine data sets, with and without SAM, five seeds. The weights
are official checkpoints (see docs/guide/fine_tuning.md), unpacked in
`checkpoints`, or what $SAM_JAX_CHECKPOINTS names:

    checkpoints/randaug/efficientnet-b7-randaug/checkpoint
    checkpoints/noisystudent/efficientnet-l2/checkpoint

fgvc_aircraft and birdsnap are folders in `data`, or what $SAM_JAX_DATA names;
the others are where tensorflow-datasets has them.

The paper tuned rho for each data set and does not print what it found. So all
of its grid is here, on both splits; sam_jax.report takes the test cell of
what is best on the validation split, and has the paper's number beside all of
them. The first command makes the validation runs; of the others, `--only` can
choose those of the best rho, or the second command makes all. On ImageNet it is
10 epochs with rho = 0.05, and what the paper has without SAM seems to be the
checkpoints themselves; what else is chosen there, see configs/finetune.py.

The paper used 64 cores of TPUv3 for b7 and 128 for L2, hence m = 16 and 4. 16
million gradient evaluations, of batches of 1024 and 512.
"""

import os

from sam_jax.sweeps import cells as cells_lib, paper as paper_lib

GRID: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
CHECKPOINTS = {
  'b7': 'randaug/efficientnet-b7-randaug',
  'l2-475': 'noisystudent/efficientnet-l2',
}
FOLDERS = ('fgvc_aircraft', 'birdsnap')

# b7 with SAM and without, L2 with SAM and without.
TABLE = {
  'cifar10': '0.88±0.02 0.95±0.03 0.30±0.01 0.34±0.02',
  'cifar100': '7.44±0.06 7.68±0.06 3.92±0.06 4.07±0.08',
  'fgvc_aircraft': '6.80±0.06 8.15±0.08 4.82±0.08 5.80±0.1',
  'oxford_flowers102': '0.63±0.02 1.16±0.05 0.35±0.01 0.40±0.02',
  'oxford_iiit_pet': '3.97±0.04 4.24±0.09 2.90±0.04 3.08±0.04',
  'cars196': '5.18±0.02 5.94±0.06 4.04±0.03 4.93±0.04',
  'birdsnap': '13.64±0.15 14.30±0.18 9.93±0.15 10.31±0.15',
  'food101': '7.02±0.02 7.17±0.03 3.82±0.01 3.97±0.03',
  'imagenet2012': '15.14±0.03 15.3 11.39±0.02 11.8',
}

# From scratch: no checkpoint is that small.
SMOKE = {'model.norm': 'batch', 'init_from': ''}


def settings(network: str, data: str) -> tuple[dict, dict]:
  """Returns what a cell has, and what the paper's number says, but a method."""
  weights = os.environ.get('SAM_JAX_CHECKPOINTS', 'checkpoints')
  folders = os.environ.get('SAM_JAX_DATA', 'data')
  cell = {
    'config': f'configs/finetune.py:{network},{data}',
    'init_from': f'{weights}/{CHECKPOINTS[network]}',
  }
  if data in FOLDERS:
    cell['data.directory'] = f'{folders}/{data}'
  model = f'efficientnet-{network}'
  return cell, {'data.name': data, 'data.split': 'test', 'model.name': model}


def get_sweep() -> cells_lib.Sweep:
  """Returns 2 x 8 x 13 x 5 + 2 x 2 x 5 cells."""
  cells, paper = [], []
  for data, text in TABLE.items():
    grid, splits = GRID, ['test', 'validation']
    if data == 'imagenet2012':
      grid, splits = (0.05,), ['test']
    b7_sam, b7, l2_sam, l2 = paper_lib.numbers(text)
    for network, with_sam, without in (
      ('b7', b7_sam, b7),
      ('l2-475', l2_sam, l2),
    ):
      cell, fields = settings(network, data)
      sgd = [{'data.split': 'test', 'method.name': 'sgd', 'method.rho': None}]
      sam = {'data.split': splits, 'method.name': ['sam'], 'method.rho': grid}
      for method in (sgd, sam):
        cells += cells_lib.product([cell], method, {'seed': range(5)})
      paper += [
        paper_lib.Paper(fields | {'method.name': 'sam'}, *with_sam),
        paper_lib.Paper(
          fields | {'method.name': 'sgd', 'method.rho': None}, *without
        ),
      ]
  return cells_lib.Sweep(cells, paper=paper, smoke=SMOKE)

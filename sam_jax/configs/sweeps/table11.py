"""Several ascent steps: table 11 of the paper (C.6).

    python scripts/sweep.py --sweep=configs/sweeps/table11.py --workdir=runs/k

1, 2, 3 and 5 steps of gradient ascent to the perturbation, on CIFAR-10 and
CIFAR-100, 20 seeds. The paper has standard deviations in place of intervals;
its "sharpness" is how much the training error on the current batch rises, in
percentage points, which is `train/perturbed_error_rate` less `train/error_rate`
here, at the end:

| steps | CIFAR-10 | sharpness | CIFAR-100 | sharpness |
|-------|----------|-----------|-----------|-----------|
| 1     | 2.77±.03 | 0.17±.03  | 16.72±.08 | 0.82±.05  |
| 2     | 2.76±.03 | 0.82±.03  | 16.59±.08 | 1.83±.05  |
| 3     | 2.73±.04 | 1.49±.05  | 16.62±.09 | 2.36±.03  |
| 5     | 2.77±.03 | 2.26±.05  | 16.60±.06 | 2.82±.04  |

It says "WRN", and its figure ends at 39,000 steps: WRN-28-10 for 200 epochs
with basic augmentation, whose errors these are, and rho of table 6. It does not
say how long a step is: rho over their number here, so that the perturbation is
never longer than rho, and the projection that it speaks of has nothing to do.
Batches of 256 follow from the figure; m = 32 and the rest is table 6's. The
hardware is not said.

23.4 million gradient evaluations, of batches of 256.
"""

from sam_jax.sweeps import cells as cells_lib, paper as paper_lib

# CIFAR-10, CIFAR-100.
TABLE = {1: '2.77 16.72', 2: '2.76 16.59', 3: '2.73 16.62', 5: '2.77 16.60'}
DATA = ('cifar10', 'cifar100')


def get_sweep() -> cells_lib.Sweep:
  """Returns 2 x 4 x 20 cells."""
  cells = cells_lib.product(
    {'config': [f'configs/{data}.py' for data in DATA]},
    {'method.ascent_steps': TABLE, 'seed': range(20)},
  )
  paper = [
    paper_lib.Paper({'data.name': data, 'method.ascent_steps': steps}, *number)
    for steps, text in TABLE.items()
    for data, number in zip(DATA, paper_lib.numbers(text), strict=True)
  ]
  return cells_lib.Sweep(cells, paper=paper)

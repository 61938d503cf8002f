"""Several ascent steps: table 11 of the paper (C.6).

    python -m sam_jax.sweep --sweep=table11 --workdir=runs/k

1, 2, 3 and 5 steps of gradient ascent to the perturbation, on CIFAR-10 and
CIFAR-100, 20 seeds. The paper has standard deviations in place of intervals;
its "sharpness" is how much the training error on the current batch rises, in
percentage points, which is `train/perturbed_error_rate` less `train/error_rate`
here, at the end:

| steps | CIFAR-10  | sharpness | CIFAR-100  | sharpness |
|-------|-----------|-----------|------------|-----------|
| 1     | 2.77±0.03 | 0.17±0.03 | 16.72±0.08 | 0.82±0.05 |
| 2     | 2.76±0.03 | 0.82±0.03 | 16.59±0.08 | 1.83±0.05 |
| 3     | 2.73±0.04 | 1.49±0.05 | 16.62±0.09 | 2.36±0.03 |
| 5     | 2.77±0.03 | 2.26±0.05 | 16.60±0.06 | 2.82±0.04 |

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

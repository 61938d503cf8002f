"""With the second-order term: figures 4 and 5 of the paper (C.4).

    python -m sam_jax.sweep --sweep=second_order --workdir=runs/o

SAM drops the derivative of the perturbation; here is one that keeps it, for
WRN-40-2 on CIFAR-10. The errors are read off the figure, in which SAM is the
better one; it also has training errors at the perturbed parameters, 0.11 %
without the derivative and 0.29 % with it at the end, to compare with
`train/perturbed_error_rate`. The cosine between the two updates along a run,
the rest of these figures, is not logged. They end at 39,000 steps, 200 epochs
of batches of 256; the paper says no more, not the hardware either: rho = 0.05
and the other settings of table 6's WRN-28-10, basic augmentation, m = 32 and
five seeds were chosen. Not all of them are the paper's: see norms.py, which has
the first of the two runs, and another number for it.

1170 thousand gradient evaluations, of batches of 256, the second-order term
counted as two.
"""

from sam_jax.sweeps import cells as cells_lib, paper as paper_lib

TABLE = {False: 3.03, True: 3.33}


def get_sweep() -> cells_lib.Sweep:
  """Returns 2 x 5 cells."""
  cell = {'config': 'configs/cifar10.py', 'model.name': 'WideResnet40x2'}
  axis = {'method.second_order': TABLE, 'seed': range(5)}
  paper = [
    paper_lib.Paper({'method.second_order': keeps}, error)
    for keeps, error in TABLE.items()
  ]
  return cells_lib.Sweep(cells_lib.product([cell], axis), paper=paper)

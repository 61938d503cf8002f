"""Label noise on the digits: table 4 of the paper in small.

    python scripts/sweep.py --sweep=configs/sweeps/digits_noise.py \
        --workdir=runs/digits_noise

Clean labels and 20 to 80 % of wrong ones; SGD, SGD for twice the epochs (as
many gradients as SAM), Mixup, and SAM with each rho of the paper's grid and
1.0; five seeds. rho is to be chosen on the validation split, whose labels are
clean, which is why every cell is there for both splits. 1,797 real images of
8 x 8 pixels in place of CIFAR-10, a small CNN in place of ResNet-32: the cells
of the paper's table are not comparable, the order of the methods is. An hour
and a quarter on two cores.
"""

from sam_jax import sweeps

NOISE = (0.0, 0.2, 0.4, 0.6, 0.8)
RHOS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
METHODS = (
  {'method': 'sgd'},
  {'method': 'sgd', 'num_epochs': 100},
  {'method': 'sgd', 'mixing.name': 'mixup'},
  *({'method': 'sam', 'sam.rho': rho} for rho in RHOS),
)


def get_sweep() -> sweeps.Sweep:
  """Returns 2 x 5 x 10 x 5 cells."""
  return sweeps.Sweep(
    sweeps.product(
      {'config': ['configs/digits.py']},
      {'data.split': ['validation', 'test']},
      {'data.label_noise': NOISE},
      METHODS,
      {'seed': range(5)},
    )
  )

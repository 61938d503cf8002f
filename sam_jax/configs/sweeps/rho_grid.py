"""The search for rho on the validation split: tables 6 and 7 of the paper.

    python -m sam_jax.sweep --sweep=rho_grid --workdir=runs/rho
    python -m sam_jax.report runs/rho

Held out are the last tenth of the training data, of SVHN's `train` alone. What
the paper chose from its grid of six, and the configs have (it searched learning
rate and weight decay as well, which is not repeated here):

| network                | CIFAR-10 | CIFAR-100 | SVHN | Fashion-MNIST |
|------------------------|----------|-----------|------|---------------|
| WRN-28-10, 200 epochs  | 0.05     | 0.1       | 0.01 | 0.05          |
| WRN-28-10, 1800 epochs | 0.05     | 0.1       |      |               |
| Shake-Shake 26 2x96d   | 0.02     | 0.05      | 0.01 | 0.02          |
| PyramidNet             | 0.05     | 0.2       |      |               |
| PyramidNet + ShakeDrop | 0.05     | 0.05      |      |               |

(160 epochs on SVHN.) For ImageNet it was 0.05, searched with ResNet-50 and 100
epochs for all three networks. The paper does not say with which augmentation
and how many seeds it searched: the basic one and five here; the first one alone
is `--only=seed=0`.

207 million gradient evaluations, of batches of 256 and, for ImageNet, 4096; 8
V100 and 32 cores of TPUv3 in the paper.
"""

from sam_jax.configs import cifar10
from sam_jax.sweeps import cells as cells_lib

GRID = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
CONFIGS = (
  *(f'configs/cifar10.py:{row}' for row in cifar10.ROWS),
  *(f'configs/cifar100.py:{row}' for row in cifar10.ROWS),
  'configs/svhn.py:wide_resnet',
  'configs/svhn.py:shake_shake',
  'configs/fashion_mnist.py:wide_resnet',
  'configs/fashion_mnist.py:shake_shake',
  'configs/imagenet.py:50,100',
)


def get_sweep() -> cells_lib.Sweep:
  """Returns 15 x 6 x 5 cells."""
  return cells_lib.Sweep(
    cells_lib.product(
      {'config': CONFIGS, 'data.split': ['validation']},
      {'method.rho': GRID},
      {'seed': range(5)},
    )
  )

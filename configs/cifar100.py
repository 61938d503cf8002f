"""CIFAR-100 with WideResNet-28-10: table 1 and 6 of the paper.

    python -m sam_jax.train --config=configs/cifar100.py --workdir=runs/c100
    python -m sam_jax.train --config=configs/cifar100.py:1800 --workdir=...

As configs/cifar10.py but for rho. Test error in the paper, mean and 95 %
confidence interval of 5 runs:

| epochs | augmentation | SAM        | SGD        |
|--------|--------------|------------|------------|
| 200    | basic        | 16.5 ± 0.2 | 18.8 ± 0.2 |
| 200    | cutout       | 14.9 ± 0.2 | 16.9 ± 0.1 |
| 1800   | basic        | 16.3 ± 0.2 | 19.1 ± 0.1 |
| 1800   | cutout       | 14.0 ± 0.1 | 17.4 ± 0.1 |
"""

import ml_collections

from configs import cifar10


def get_config(epochs: str = '200') -> ml_collections.ConfigDict:
  """Returns the config; B/m/b = 256/32/32."""
  config = cifar10.get_config(epochs)
  config.data.name = 'cifar100'
  config.sam.rho = 0.1
  return config

"""CIFAR-100: tables 1 and 6 of the paper.

    python -m sam_jax.train --config=cifar100 --workdir=runs/c100
    python -m sam_jax.train --config=cifar100:1800 --workdir=...

As configs/cifar10.py, with other values of rho and one other learning rate.
Test error in the paper, with basic augmentation | cutout | AutoAugment:

| argument    | SAM            | SGD            |
|-------------|----------------|----------------|
| 200         | 16.5 14.9 13.6 | 18.8 16.9 15.8 |
| 1800        | 16.3 14.0 12.8 | 19.1 17.4 16.1 |
| shake_shake | 15.1 14.2 12.8 | 17.0 15.7 14.1 |
| pyramidnet  | 14.6 12.6 11.6 | 19.7 16.4 14.6 |
| shakedrop   | 13.3 11.3 10.3 | 14.5 11.8 10.6 |
"""

import ml_collections

from sam_jax.configs import cifar10

ROWS = {
  '200': cifar10.ROWS['200']._replace(rho=0.1),
  '1800': cifar10.ROWS['1800']._replace(rho=0.1),
  'shake_shake': cifar10.ROWS['shake_shake']._replace(rho=0.05),
  'pyramidnet': cifar10.ROWS['pyramidnet']._replace(rho=0.2),
  'shakedrop': cifar10.ROWS['shakedrop']._replace(learning_rate=0.05),
}


def get_config(row: str = '200') -> ml_collections.ConfigDict:
  """Returns the config; B/m/b = 256/32/32."""
  return cifar10.from_row('cifar100', ROWS, row)

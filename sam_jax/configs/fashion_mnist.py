"""Fashion-MNIST: tables 5 and 7 of the paper.

    python -m sam_jax.train --config=fashion_mnist --workdir=runs/f

The argument is the row: 'wide_resnet' (WRN-28-10, the default), or
'shake_shake' (26 2x96d). The paper does not say for how many epochs; 200 here,
as for CIFAR's WRN-28-10. Test error in the paper, basic augmentation | cutout
(`--config.augmentation.cutout_length=16`):

| argument    | SAM                 | without             |
|-------------|---------------------|---------------------|
| wide_resnet | 3.98±0.05 3.61±0.06 | 4.57±0.07 3.86±0.14 |
| shake_shake | 3.97±0.09 3.59±0.01 | 4.37±0.06 3.76±0.07 |

A network for a CPU: `--config.model.name=WideResnet16x1` and
`--config.num_epochs=1`, a few minutes on two cores.

The data come from `--config.data.directory`, a directory with the four IDX
files; from Debian's package dataset-fashion-mnist, if it is installed; else
from tensorflow-datasets.
"""

import ml_collections

from sam_jax.configs import cifar10

ROWS = {
  'wide_resnet': cifar10.Row('WideResnet28x10', 200, 0.1, 5e-4, 0.05),
  'shake_shake': cifar10.Row('ShakeShake26_2x96d', 200, 0.1, 5e-4, 0.02),
}


def get_config(row: str = 'wide_resnet') -> ml_collections.ConfigDict:
  """Returns the config; B/m/b = 256/32/32."""
  return cifar10.from_row('fashion_mnist', ROWS, row)

"""SVHN: tables 5 and 7 of the paper.

    python -m sam_jax.train --config=svhn --workdir=runs/svhn

The argument is the row: 'wide_resnet' (WRN-28-10, the default), or
'shake_shake' (26 2x96d). Trains on all of train and extra, 604,388 images. The
paper does not say for how many epochs; 160 here, which AutoAugment's authors
seem to have used. Test error in the paper, basic augmentation | AutoAugment and
cutout, without flips and crops as in the official release
(`--config.augmentation.name=aa-only --config.augmentation.cutout_length=16`):

| argument    | SAM                 | without             |
|-------------|---------------------|---------------------|
| wide_resnet | 1.42±0.02 0.99±0.01 | 1.58±0.03 1.14±0.04 |
| shake_shake | 1.44±0.02 1.07±0.02 | 1.58±0.05 1.03±0.02 |
"""

import ml_collections

from sam_jax.configs import cifar10

ROWS = {
  'wide_resnet': cifar10.Row('WideResnet28x10', 160, 0.01, 5e-4, 0.01),
  'shake_shake': cifar10.Row('ShakeShake26_2x96d', 160, 0.01, 5e-4, 0.01),
}


def get_config(row: str = 'wide_resnet') -> ml_collections.ConfigDict:
  """Returns the config; B/m/b = 256/32/32."""
  config = cifar10.from_row('svhn_cropped', ROWS, row)
  config.augmentation.policy = 'svhn'
  return config

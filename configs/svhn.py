"""SVHN with WideResNet-28-10: table 5 and 7 of the paper.

    python -m sam_jax.train --config=configs/svhn.py --workdir=runs/svhn

Trains on all of train and extra, 604,388 images. The paper does not say for how
many epochs; 160 here, which AutoAugment's authors used. Test error in the
paper, basic augmentation: 1.42 ± 0.02 (SAM) and 1.58 ± 0.03 (without).
"""

import ml_collections

from configs import cifar10


def get_config() -> ml_collections.ConfigDict:
  """Returns the config; B/m/b = 256/32/32."""
  config = cifar10.get_config()
  config.data.name = 'svhn_cropped'
  config.num_epochs = 160
  config.learning_rate = 0.01
  config.sam.rho = 0.01
  return config

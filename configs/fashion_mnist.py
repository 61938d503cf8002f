"""Fashion-MNIST with WideResNet-28-10: table 5 and 7 of the paper.

    python -m sam_jax.train --config=configs/fashion_mnist.py --workdir=runs/f

The paper does not say for how many epochs; as for CIFAR, 200 here. Test error
in the paper: basic 3.98 ± 0.05 (SAM) and 4.57 ± 0.07 (without); with cutout,
`--config.augmentation.cutout_length=16`, 3.61 ± 0.06 and 3.86 ± 0.14.

A network for a CPU: `--config.model.name=WideResnet16x1` and
`--config.num_epochs=1`, a few minutes on two cores.

The data come from `--config.data.directory`, a directory with the four IDX
files; from Debian's package dataset-fashion-mnist, if it is installed; else
from tensorflow-datasets.
"""

import ml_collections

from configs import cifar10


def get_config() -> ml_collections.ConfigDict:
  """Returns the config; B/m/b = 256/32/32."""
  config = cifar10.get_config()
  config.data.name = 'fashion_mnist'
  config.sam.rho = 0.05
  return config

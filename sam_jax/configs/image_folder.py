r"""Images of one's own: the starting point for them.

    python -m sam_jax.train --config=image_folder \
        --config.data.directory=DIR --workdir=runs/mine

DIR has train/CLASS/*.jpg and test/CLASS/*.jpg, or val/ for test/. ResNet-50
from scratch with the settings of table 2 of the paper, but for 256 images a
step and a learning rate in proportion. Choose `--config.method.rho` on
`--config.data.split=validation`: 0.05 is the paper's, a larger one helps where
labels are wrong. Smaller images: `--config.data.image_size`; another network:
`--config.model.name`; pretrained weights: configs/finetune.py:b7,image_folder.

With fewer than 256 training images the run is refused, and the error proposes a
batch size, m and microbatch size that fit, as flags to be added to the command.
"""

import ml_collections

from sam_jax.configs import imagenet


def get_config() -> ml_collections.ConfigDict:
  """Returns the config; B/m/b = 256/32/32."""
  config = imagenet.get_config()
  config.data.name = 'image_folder'
  config.batch_size = 256
  config.m = 32
  config.microbatch_size = 32
  config.learning_rate = 1.0 * 256 / 4096
  config.eval_batch_size = 256
  return config

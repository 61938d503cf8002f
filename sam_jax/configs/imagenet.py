"""ImageNet: table 2 of the paper.

    python -m sam_jax.train --config=imagenet:50 --workdir=runs/r50
    python -m sam_jax.train --config=imagenet:50,400 --workdir=...

The argument is the depth of the ResNet, 50, 101 or 152, and the number of
epochs, 100, 200 or 400 (100 if it is left out). Top-1 and top-5 test error in
the paper, 95 % confidence intervals up to 0.1:

| argument | SAM        | SGD        |
|----------|------------|------------|
| 50,100   | 22.5 6.28  | 22.9 6.62  |
| 50,200   | 21.4 5.82  | 22.3 6.37  |
| 50,400   | 20.9 5.51  | 22.3 6.40  |
| 101,100  | 20.2 5.12  | 21.2 5.66  |
| 101,200  | 19.4 4.76  | 20.9 5.66  |
| 101,400  | 19.0 4.65  | 22.3 6.41  |
| 152,100  | 19.2 4.69  | 20.4 5.39  |
| 152,200  | 18.5 4.37  | 20.3 5.39  |
| 152,400  | 18.4 4.35  | 20.9 5.84  |

SGD is `--config.method.name=sgd --config.method.rho=None`. The paper used 32
cores of TPUv3 with 128 images on each, so m is 128 here; on fewer devices
`--config.microbatch_loop=scan` (the default on accelerators) goes through the
microbatches in turn. The official code augments by flips alone, or by
RandAugment (`--config.augmentation.name=randaugment`).
"""

import ml_collections

from sam_jax.configs import default

DEPTHS = ('50', '101', '152')


def get_config(row: str = '50') -> ml_collections.ConfigDict:
  """Returns the config; B/m/b = 4096/128/128."""
  depth, _, epochs = row.partition(',')
  if depth not in DEPTHS or not (epochs or '100').isdecimal():
    raise ValueError(
      f'the argument {row!r} is unknown; use a depth of '
      f'{", ".join(DEPTHS)}, and perhaps a number of epochs, as in 50,100'
    )
  config = default.get_config()
  config.model.name = f'Resnet{depth}'
  config.data.name = 'imagenet2012'
  config.augmentation.name = 'basic'
  config.augmentation.padding = 0  # flips; the crop is that of the decoder
  config.augmentation.policy = 'imagenet'  # of AutoAugment, if that is chosen
  config.batch_size = 4096
  config.m = 128
  config.microbatch_size = 128
  config.method.rho = 0.05
  config.num_epochs = int(epochs or 100)
  config.learning_rate = 1.0
  config.weight_decay.rate = 1e-4
  config.label_smoothing = 0.1
  config.eval_batch_size = 1024
  return config

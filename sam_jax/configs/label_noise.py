r"""CIFAR-10 with wrong training labels: tables 4 and 8 of the paper.

    python -m sam_jax.train --config=label_noise --workdir=runs/n \
        --config.data.label_noise=0.4

The paper says ResNet-32, 200 epochs, "randomly flipped" labels, rho = 0.1 (0.05
where 80 % are wrong), and nothing more. Chosen here:

- the network: 'wide', the default, is what the public code of the work that the
  paper follows (Jiang et al.) calls ResNet-32; it has 29.4 M parameters. 'thin'
  is the ResNet-32 of He et al. with 0.46 M. The paper has 95.1 % with a fifth
  of the labels wrong, which the thin network can hardly reach: others report
  94.8 % for it without label noise.
- all else: as table 6's WRN-28-10, the authors' other runs of 200 epochs.
  That public code (a later reproduction) has batches of 128, a weight decay of
  2e-4 on kernels, a stepwise learning rate and a moving average instead.
- each wrong label is another class, uniformly chosen; m is 32, as on 8 GPUs.
"""

import ml_collections

from sam_jax.configs import cifar10

MODELS = {'wide': 'PreactResnet32_wide', 'thin': 'CifarResnet32'}


def get_config(model: str = 'wide') -> ml_collections.ConfigDict:
  """Returns the config; B/m/b = 256/32/32."""
  if model not in MODELS:
    raise ValueError(f'the model {model!r} is unknown; use {", ".join(MODELS)}')
  config = cifar10.get_config()
  config.model.name = MODELS[model]
  config.data.label_noise = 0.2
  config.method.rho = 0.1
  return config

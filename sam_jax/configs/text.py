"""A small language model of bytes: minutes on a CPU, no download.

    python -m sam_jax.train --config=text --workdir=runs/text
    python -m sam_jax.train --config=text:text --workdir=... \
        --config.data.directory=my_text.txt
    python -m sam_jax.generate --workdir=runs/text --prompt='The '

The argument is the text: 'python_manual', the reference manual that every
Python contains (the default, 0.4 MB); 'bible', of Debian's bible-kjv-text
(4.4 MB); or 'text', a file or a folder of one's own. The model has 1 M
parameters and predicts each byte from the 128 before it.

AdamW alone is `--config.method.name=sgd --config.method.rho=None`: 'sgd' is the
gradient as it is, whatever the optimizer makes of it. Bits per byte on the
validation split (`--config.data.split=validation`) after two epochs, one seed:

| learning rate              | 0.001 | 0.003 | 0.006 |
|----------------------------|-------|-------|-------|
| AdamW                      | 3.392 | 3.126 | 3.102 |
| quarter_sam with rho 0.02  |       | 3.194 |       |
| quarter_sam with rho 0.1   |       | 3.341 |       |

In so short a run the model does not learn its text by heart, and a perturbation
only slows it down; rho has not been tuned beyond this table. Optimizer and
clipping are those of nanoGPT for characters (Karpathy 2022).
"""

import ml_collections

from sam_jax.configs import default

TEXTS = ('python_manual', 'bible', 'text')


def get_config(text: str = 'python_manual') -> ml_collections.ConfigDict:
  """Returns the config; B/m/b = 16/16/16 windows."""
  if text not in TEXTS:
    raise ValueError(
      f'the argument {text!r} is unknown; use {", ".join(TEXTS)}'
    )
  config = adamw(default.get_config())
  config.model.name = 'gpt-tiny'
  config.data.name = text
  config.data.context_length = 128
  config.batch_size = config.m = config.microbatch_size = 16
  config.eval_batch_size = 64
  config.num_epochs = 6
  config.learning_rate = 3e-3
  config.optimizer.b2 = 0.99
  config.schedule.warmup_steps = 100
  config.method.rho = 0.02
  return config


def adamw(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Returns a config with what recipes for language models have in common.

  They have AdamW, whose weight decay spares biases and LayerNorms; clipping to
  norm 1; and half a cosine that ends at a tenth of the learning rate.
  """
  config.task.name = 'language_modelling'
  config.optimizer.name = 'adamw'
  config.optimizer.b1 = 0.9
  config.weight_decay.rate = 0.1
  config.weight_decay.place = 'decoupled'
  config.weight_decay.exclude = '(scale|bias)$'
  config.gradient_clipping = 1.0
  config.schedule.name = 'cosine'
  config.schedule.end_fraction = 0.1
  return config

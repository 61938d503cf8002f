"""GPT-2 on tokens that nanoGPT's prepare.py has written.

    python -m sam_jax.train --config=gpt2 --workdir=runs/gpt2 \
        --config.data.directory=data/openwebtext
    python -m sam_jax.train --config=gpt2:gpt2-medium --workdir=...

The argument is the model: 'gpt2' (124 M parameters, the default),
'gpt2-medium', 'gpt2-large' or 'gpt2-xl'. The recipe is nanoGPT's for 'gpt2'
(Karpathy 2022, config/train_gpt2.py and the defaults of train.py), whose AdamW
run ends at a validation loss of about 2.85 on OpenWebText: 480 windows of 1,024
tokens in a step, 600,000 steps, learning rate 6e-4 after 2,000 steps of
warm-up, betas 0.9 and 0.95, weight decay 0.1, no biases, bfloat16. For the
larger models it gives none; what is set here is the same for all.

The method is the recipe of Bahri et al. 2021 for language models: a quarter of
the examples makes the perturbation. Their rho was found for T5 with Adafactor;
for this model no value is known, so that rho has to be tuned. AdamW alone is
`--config.method.name=sgd --config.method.rho=None`.

Differs from nanoGPT: embeddings of 50,257 tokens, not padded to 50,304; an
epoch has every token once, where nanoGPT draws windows with replacement; and an
evaluation goes over the whole validation split.
"""

import ml_collections

from sam_jax.configs import default, text

MODELS = ('gpt2', 'gpt2-medium', 'gpt2-large', 'gpt2-xl')


def get_config(model: str = 'gpt2') -> ml_collections.ConfigDict:
  """Returns the config; B/m/b = 480/60/12 windows, as on 8 devices."""
  if model not in MODELS:
    raise ValueError(
      f'the argument {model!r} is unknown; use {", ".join(MODELS)}'
    )
  config = text.adamw(default.get_config())
  config.model.name = model
  config.model.use_bias = False
  config.data.name = 'tokens'
  config.data.context_length = 1024
  config.data.vocabulary_size = 50_257
  config.data.split = 'validation'
  config.batch_size = 480
  config.m = 60
  config.microbatch_size = 12
  config.microbatch_loop = 'scan'  # memory of one, wherever it runs
  config.eval_batch_size = 64
  config.num_steps = 600_000
  config.learning_rate = 6e-4
  config.optimizer.b2 = 0.95
  config.schedule.warmup_steps = 2000
  config.schedule.after_warmup = True
  config.compute_dtype = 'bfloat16'
  config.method.name = 'quarter_sam'
  config.method.rho = 0.05
  config.checkpoint.every_steps = 1000
  return config

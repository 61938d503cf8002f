"""The models of the paper, and one's own: `create`, `register`, `names`."""

# Importing a model's module registers it.
from sam_jax.models import cnn as cnn, wide_resnet as wide_resnet
from sam_jax.models.registry import (
  create as create,
  names as names,
  register as register,
)

"""The models of the paper, and one's own: `create`, `register`, `names`."""

# Importing a model's module registers it.
from sam_jax.models import cnn as cnn
from sam_jax.models import wide_resnet as wide_resnet
from sam_jax.models.registry import create as create
from sam_jax.models.registry import names as names
from sam_jax.models.registry import register as register

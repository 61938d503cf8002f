"""The models of the paper, and one's own: `create`, `register`, `names`."""

# Importing a model's module registers it.
from sam_jax.models import (
  cifar_resnet as cifar_resnet,
  cnn as cnn,
  efficientnet as efficientnet,
  preact_resnet as preact_resnet,
  pyramidnet as pyramidnet,
  resnet as resnet,
  shake_shake as shake_shake,
  wide_resnet as wide_resnet,
)
from sam_jax.models.layers import Classifier as Classifier
from sam_jax.models.registry import (
  create as create,
  names as names,
  register as register,
)

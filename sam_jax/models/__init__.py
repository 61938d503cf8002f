"""The models of the paper, and your own: `create`, `register`, `names`."""

from sam_jax import extras

with extras.required():
  # Importing a model's module registers it.
  from sam_jax.models import (
    cifar_resnet as cifar_resnet,
    cnn as cnn,
    efficientnet as efficientnet,
    gpt as gpt,
    mixer as mixer,
    preact_resnet as preact_resnet,
    pyramidnet as pyramidnet,
    resnet as resnet,
    shake_shake as shake_shake,
    vit as vit,
    wide_resnet as wide_resnet,
  )
  from sam_jax.models.layers import Classifier as Classifier
  from sam_jax.models.registry import (
    create as create,
    names as names,
    options as options,
    register as register,
  )

"""Many runs of one question: cells, running them, what they found."""

from sam_jax import extras

with extras.required():  # what the room stands on
  import ml_collections as ml_collections

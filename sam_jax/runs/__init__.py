"""One run: from a config to a directory with what came out."""

from sam_jax import extras

with extras.required():  # what the room stands on
  import ml_collections as ml_collections

"""The pure training step, and what it is made of."""

from sam_jax import extras

with extras.required():  # what the room stands on
  import flax as flax
  import optax as optax

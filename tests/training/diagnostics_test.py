import jax.numpy as jnp
import pytest

from sam_jax import methods
from sam_jax.training import diagnostics


@pytest.mark.parametrize('share, mean', [(1.0, 3.0), (0.25, 12.0), (0.0, 0.0)])
def test_means_of_the_perturbation_are_over_the_groups_that_have_one(
  share, mean
):
  """Those without one have left zeros in the means over all groups."""
  aux = diagnostics.Aux({'loss': jnp.float32(2)}, {})
  total = jnp.float32(3.0 if share else 0.0)
  result = methods.GroupResult(
    (jnp.float32(2), aux),
    {'w': jnp.array([3.0, 4.0])},
    (),
    jnp.float32(share),
    {'sharpness': total},
  )
  metrics = diagnostics.of_step(
    result, {'w': jnp.ones(4)}, learning_rate=jnp.float32(0.1), max_norm=2.0
  )
  assert metrics.perturbed['sharpness'] == mean
  assert metrics.share == share
  assert metrics.step == pytest.approx(
    {
      'loss': 2,
      'gradient_norm': 5,
      'clipped_gradient_norm': 2,
      'param_norm': 2,
      'learning_rate': 0.1,
    }
  )

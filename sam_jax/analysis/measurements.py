"""All that can be measured of trained models, by the name of the command."""

from sam_jax.analysis import (
  measure_evaluation,
  measure_hessian,
  measure_sharpness,
  measure_slices,
)

BY_NAME = {
  'hessian': measure_hessian.HESSIAN,
  'sharpness': measure_sharpness.SHARPNESS,
  'landscape': measure_slices.LANDSCAPE,
  'interpolate': measure_slices.INTERPOLATE,
  'evaluation': measure_evaluation.EVALUATION,
}

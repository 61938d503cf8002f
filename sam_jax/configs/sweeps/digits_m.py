"""m-sharpness on the digits: the middle of figure 3 of the paper in small.

    python -m sam_jax.sweep --sweep=digits_m --workdir=runs/digits_m --workers=2
    python -m sam_jax.report runs/digits_m

Test error against rho for each m, the examples that share one perturbation, of
a batch of 128; three seeds. 40 % of the labels are wrong: on clean ones the
methods differ by less than the seeds. The network is a small one without
BatchNorm, so that a microbatch of m examples, which is what costs least,
changes nothing else. 80 epochs of 7 steps.
"""

from sam_jax.sweeps import cells as cells_lib

MS = (1, 4, 16, 64, 128)
RHOS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def get_sweep() -> cells_lib.Sweep:
  """Returns 5 x 6 x 3 cells, and three of SGD."""
  base = {
    'config': 'configs/digits.py:noisy',
    'model.features': (8, 16),
    'model.hidden': 32,
    'batch_size': 128,
    'num_epochs': 80,
    'learning_rate': 0.3,
    'microbatch_loop': 'vmap',
  }
  methods = [
    {'method.name': 'sgd', 'method.rho': None, 'm': 128, 'microbatch_size': 128}
  ]
  methods += cells_lib.product(
    [{'m': m, 'microbatch_size': m} for m in MS],
    [{'method.name': 'sam', 'method.rho': rho} for rho in RHOS],
  )
  return cells_lib.Sweep(cells_lib.product([base], methods, {'seed': range(3)}))

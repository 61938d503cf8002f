"""rho for bootstrapped SAM under label noise: table 8 of the paper.

    python -m sam_jax.sweep --sweep=table8 --workdir=runs/n8

Error on the validation split, a tenth of the training data with clean labels,
of a second run with SAM on the labels that a first one with the same rho
predicts; rho = 0 is SGD. The paper calls the numbers accuracies, but they are
errors: only so do they agree with table 4. See table4.py, also for what the
paper does not say; five seeds, which it does not say here either.

18.2 million gradient evaluations, of batches of 256.
"""

from sam_jax.sweeps import cells as cells_lib, paper as paper_lib

NOISE = (0.2, 0.4, 0.6, 0.8)

# One for each level of noise, by rho.
TABLE = {
  0.0: (15.0, 31.2, 52.3, 73.5),
  0.01: (13.7, 28.7, 50.1, 72.9),
  0.02: (12.8, 27.8, 48.9, 73.1),
  0.05: (11.6, 25.6, 47.1, 21.0),
  0.1: (4.6, 6.0, 8.7, 56.1),
  0.2: (5.3, 7.4, 23.3, 77.1),
  0.5: (17.6, 40.9, 80.1, 89.9),
}


def get_sweep() -> cells_lib.Sweep:
  """Returns 4 x 7 x 2 x 5 cells."""
  cells = cells_lib.product(
    {'config': ['configs/label_noise.py'], 'data.label_noise': NOISE},
    {'data.split': ['validation'], 'method.name': ['sam'], 'method.rho': TABLE},
    [{}, {'labels_from': cells_lib.Like({})}],
    {'seed': range(5)},
  )
  fields = {
    'data.split': 'validation',
    'method.name': 'sam',
    'labels_from': bool,
  }
  paper = [
    paper_lib.Paper(
      fields | {'data.label_noise': noise, 'method.rho': rho}, error
    )
    for rho, errors in TABLE.items()
    for noise, error in zip(NOISE, errors, strict=True)
  ]
  return cells_lib.Sweep(cells, paper=paper)

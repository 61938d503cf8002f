"""Label noise on CIFAR-10: the authors' own rows of table 4 of the paper.

    python -m sam_jax.sweep --sweep=table4 --workdir=runs/n

20 to 80 % of the training labels are wrong; SGD, Mixup, SAM with the rho that
table 8 has as the best, and both of the latter bootstrapped: trained anew on
the labels that the first run predicts. The paper prints accuracies on clean
labels, of which these are the errors, without intervals, and next to nothing of
the settings: configs/label_noise.py says what was chosen. Also chosen here:

- the first of two runs is what the second is, with noisy labels. One by SGD
  would be wrong on a third of the labels where 40 % are, and the bootstrapped
  SAM is on 6 % of the test images.
- Mixup has the best of four alphas for each level of noise, by the validation
  split presumably: all are here, on both splits, and sam_jax.report takes
  the test cell of what is best on the validation split.
- SGD is also there for twice the epochs, as many gradients as SAM, which the
  paper does not mention here; its numbers are beside both.

The paper names no hardware here; m = 32 is that of its 8 V100 for CIFAR.
17.3 million gradient evaluations, of batches of 256.
"""

from sam_jax.sweeps import cells as cells_lib, paper as paper_lib

NOISE = (0.2, 0.4, 0.6, 0.8)
RHO = {0.2: 0.1, 0.4: 0.1, 0.6: 0.1, 0.8: 0.05}
ALPHAS = (1.0, 8.0, 16.0, 32.0)

# Accuracies, one for each level of noise.
TABLE = {
  'SGD': (84.8, 68.8, 48.2, 26.2),
  'Mixup': (93.0, 90.0, 83.8, 70.2),
  'Bootstrap + Mixup': (93.3, 92.0, 87.6, 72.0),
  'SAM': (95.1, 93.4, 90.5, 77.9),
  'Bootstrap + SAM': (95.4, 94.2, 91.8, 79.9),
}
SGD: cells_lib.Fields = {
  'method.name': 'sgd',
  'method.rho': None,
  'mixing.name': 'none',
}
MIXUP: cells_lib.Fields = {
  'method.name': 'sgd',
  'method.rho': None,
  'mixing.name': 'mixup',
}
SAM: cells_lib.Fields = {'method.name': 'sam', 'mixing.name': 'none'}
FIELDS = {'SGD': SGD, 'Mixup': MIXUP, 'SAM': SAM}


def _paper() -> list[paper_lib.Paper]:
  """Returns the table as errors."""
  paper = []
  for name, accuracies in TABLE.items():
    bootstrap, _, method = name.rpartition(' + ')
    fields = FIELDS[method] | {
      'data.split': 'test',
      'labels_from': bool if bootstrap else '',
    }
    paper += [
      paper_lib.Paper(fields | {'data.label_noise': noise}, round(100 - x, 1))
      for noise, x in zip(NOISE, accuracies, strict=True)
    ]
  return paper


def get_sweep() -> cells_lib.Sweep:
  """Returns 4 x 20 x 5 cells."""
  cells = []
  for noise in NOISE:
    cell = {'config': 'configs/label_noise.py', 'data.label_noise': noise}
    test = {'data.split': ['test']}
    both = {'data.split': ['validation', 'test']}
    twice = [{}, {'labels_from': cells_lib.Like({})}]
    for axes in (
      (test, [SGD], {'num_epochs': [200, 400]}),
      (both, [MIXUP], {'mixing.alpha': ALPHAS}, twice),
      (test, [SAM], {'method.rho': [RHO[noise]]}, twice),
    ):
      cells += cells_lib.product([cell], *axes, {'seed': range(5)})
  return cells_lib.Sweep(cells, paper=_paper())

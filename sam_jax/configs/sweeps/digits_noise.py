"""Label noise on the digits: tables 4 and 8 of the paper in small.

    python -m sam_jax.sweep --sweep=digits_noise \
        --workdir=runs/digits_noise --workers=2
    python -m sam_jax.report runs/digits_noise

Clean labels and 20 to 80 % of wrong ones; SGD, SGD for twice the epochs (as
many gradients as SAM), Mixup, SAM, and bootstrap: trained anew on the labels
that Mixup or SAM predict. Five seeds. 1,797 real images of 8 x 8 pixels in
place of CIFAR-10 and a small CNN in place of ResNet-32: the cells of the
paper's tables are not comparable, the order of the methods is.

rho and Mixup's alpha are chosen on the validation split, 100 images with clean
labels, from the paper's grids (rho also 1.0), three seeds: the cells with
`data.split=validation`. What they chose is `RHO` and `ALPHA`.
"""

from sam_jax.sweeps import cells as cells_lib

NOISE = (0.0, 0.2, 0.4, 0.6, 0.8)
RHOS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
ALPHAS = (1.0, 8.0, 16.0, 32.0)
# By the share of wrong labels.
RHO = {0.0: 0.5, 0.2: 1.0, 0.4: 1.0, 0.6: 0.5, 0.8: 0.2}
ALPHA = {0.0: 8.0, 0.2: 32.0, 0.4: 8.0, 0.6: 8.0, 0.8: 1.0}


def sam(rho: float) -> cells_lib.Fields:
  return {'method.name': 'sam', 'method.rho': rho}


def mixup(alpha: float) -> cells_lib.Fields:
  return {'method.name': 'sgd', 'mixing.name': 'mixup', 'mixing.alpha': alpha}


def methods(noise: float) -> list[cells_lib.Fields]:
  """Returns what is tested at a noise level."""
  chosen = [mixup(ALPHA[noise]), sam(RHO[noise])]
  bootstrap = {'labels_from': cells_lib.Like({})}
  return [
    {'method.name': 'sgd'},
    {'method.name': 'sgd', 'num_epochs': 100},
    *chosen,
    *(fields | bootstrap for fields in chosen),
  ]


def get_sweep() -> cells_lib.Sweep:
  """Returns 180 validation and 150 test cells."""
  base = [{'config': 'configs/digits.py'}]
  candidates = [{'method.name': 'sgd'}, *map(sam, RHOS), *map(mixup, ALPHAS)]
  cells = cells_lib.product(
    base,
    [{'data.split': 'validation'}],
    {'data.label_noise': NOISE},
    candidates,
    {'seed': range(3)},
  )
  for noise in NOISE:
    cells += cells_lib.product(
      base,
      [{'data.split': 'test', 'data.label_noise': noise}],
      methods(noise),
      {'seed': range(5)},
    )
  return cells_lib.Sweep(cells)

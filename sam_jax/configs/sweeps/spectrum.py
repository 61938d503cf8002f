"""The Hessian's spectrum while training: figure 3 of the paper, on the left.

    python -m sam_jax.sweep --sweep=spectrum --workdir=runs/h
    python -m sam_jax.analyze hessian --checkpoint=9750 --examples=2048 \
        --workdir=$(ls -d runs/h/*sgd,*seed=0) \
        --workdir=$(ls -d runs/h/*sam,seed=0)

WRN-40-10 without BatchNorm on CIFAR-10, SGD and SAM, with a checkpoint after
epochs 1, 50 and 300: steps 195, 9750 and 58500. In the figure, the largest
eigenvalue and its ratio to the fifth:

| epoch | SGD  |      | SAM  |     |
|-------|------|------|------|-----|
| 1     | 62.9 | 2.5  | 18.6 | 3.6 |
| 50    | 12.5 | 1.7  | 8.9  | 1.9 |
| 300   | 24.2 | 11.4 | 1.0  | 2.6 |

The paper says no more: how the network is initialised and scaled (see
`sam_jax.models.wide_resnet`), rho and the other settings, which are those of
table 6's WRN-28-10 here, of how many images the loss is, and the hardware. It
shows one run of each; five seeds here.

878 thousand gradient evaluations, of batches of 256.
"""

from sam_jax.sweeps import cells as cells_lib


def get_sweep() -> cells_lib.Sweep:
  """Returns 2 x 5 cells."""
  cell = {
    'config': 'configs/cifar10.py',
    'model.name': 'WideResnet40x10',
    'model.norm': 'none',
    'num_epochs': 300,
    'checkpoint.at_epochs': (1, 50, 300),
  }
  methods: list[cells_lib.Fields] = [
    {'method.name': 'sgd', 'method.rho': None},
    {'method.name': 'sam'},
  ]
  return cells_lib.Sweep(cells_lib.product([cell], methods, {'seed': range(5)}))

"""Fashion-MNIST for two CPU cores: a row of table 5 of the paper in small.

    python -m sam_jax.sweep --sweep=fashion_mnist_small \
        --workdir=runs/fashion_small --workers=2
    python -m sam_jax.report runs/fashion_small

The first 10,000 of the 60,000 training images, the whole test set, and a CNN of
55,000 parameters in place of WRN-28-10, for 15 epochs with flips and crops: the
paper's cells are not comparable. SGD, SGD for twice the epochs, SAM; three
seeds. rho is chosen from the paper's grid on the validation split, the last
1,000 of the training images, with two seeds: `RHO`. B/m = 128/32. Its mean
validation error, %:

| rho   | 0.01 | 0.02 | 0.05 | 0.1  | 0.2  | 0.5  |
|-------|------|------|------|------|------|------|
| error | 15.2 | 18.7 | 16.7 | 19.9 | 23.0 | 91.0 |
"""

from sam_jax.sweeps import cells as cells_lib

RHOS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
RHO = 0.01  # the validation split's choice


def get_sweep() -> cells_lib.Sweep:
  """Returns 12 validation and 9 test cells."""
  base = {
    'config': 'configs/fashion_mnist.py',
    'data.train_size': 10_000,
    'model.name': 'cnn',
    'model.features': (16, 32),
    'model.hidden': 32,
    'batch_size': 128,
  }
  tested: list[cells_lib.Fields] = [
    {'method.name': 'sgd', 'method.rho': None, 'num_epochs': 15},
    {'method.name': 'sgd', 'method.rho': None, 'num_epochs': 30},
    {'method.name': 'sam', 'num_epochs': 15, 'method.rho': RHO},
  ]
  grid = {'method.rho': RHOS, 'seed': range(2)}
  return cells_lib.Sweep(
    cells_lib.product(
      [base | {'data.split': 'validation', 'num_epochs': 15}], grid
    )
    + cells_lib.product(
      [base | {'data.split': 'test'}], tested, {'seed': range(3)}
    )
  )

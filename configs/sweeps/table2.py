"""ResNets on ImageNet: table 2 of the paper.

    python scripts/sweep.py --sweep=configs/sweeps/table2.py \
        --workdir=runs/imagenet --set=data.directory=DIR

ResNet-50, -101 and -152 for 100, 200 and 400 epochs, SAM and SGD, top-1 error;
top-5 is in every run's log, and the paper's in configs/imagenet.py. There are
no doubled runs: the row below has them, up to 400 epochs. rho = .05 was found
with ResNet-50 and 100 epochs, see rho_grid.py. The paper trained on 32 cores of
TPUv3, hence m = 128. It prints two half widths as "<0.0", left out here.

9.8 million gradient evaluations, of batches of 4096: on a TPU pod with
`--emit=tpu`.
"""

from sam_jax import sweeps

# SAM, SGD.
TABLE = {
  (50, 100): '22.5±0.1 22.9±0.1',
  (50, 200): '21.4±0.1 22.3±0.1',
  (50, 400): '20.9±0.1 22.3±0.1',
  (101, 100): '20.2±0.1 21.2±0.1',
  (101, 200): '19.4±0.1 20.9±0.1',
  (101, 400): '19.0±<0.01 22.3±0.1',
  (152, 100): '19.2±<0.01 20.4',
  (152, 200): '18.5±0.1 20.3±0.2',
  (152, 400): '18.4±<0.01 20.9',
}


def get_sweep() -> sweeps.Sweep:
  """Returns 9 x 2 x 5 cells."""
  cells, paper = [], []
  for (depth, epochs), text in TABLE.items():
    fields = {
      'data.name': 'imagenet2012',
      'data.split': 'test',
      'model.name': f'Resnet{depth}',
      'num_epochs': epochs,
    }
    for method, number in zip(
      ({'method': 'sam', 'sam.rho': 0.05}, {'method': 'sgd'}),
      sweeps.numbers(text),
      strict=True,
    ):
      cell = {'config': f'configs/imagenet.py:{depth},{epochs}'} | method
      cells += sweeps.product([cell], {'seed': range(5)})
      paper.append(sweeps.Paper(fields | method, *number))
  return sweeps.Sweep(cells, paper=paper)

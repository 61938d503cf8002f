"""ResNets on ImageNet: table 2 of the paper.

    python -m sam_jax.sweep --sweep=table2 \
        --workdir=runs/imagenet --set=data.directory=DIR

ResNet-50, -101 and -152 for 100, 200 and 400 epochs, SAM and SGD, top-1 and
top-5 error. There are no doubled runs: the row below has them, up to 400
epochs. rho = 0.05 was found with ResNet-50 and 100 epochs, see rho_grid.py. The
paper trained on 32 cores of TPUv3, hence m = 128. It prints two half widths as
"<0.0", left out here.

9.8 million gradient evaluations, of batches of 4096: on a TPU pod with
`--emit=tpu`.
"""

from sam_jax.sweeps import cells as cells_lib, paper as paper_lib

# SAM: top-1, top-5; SGD: top-1, top-5.
TABLE = {
  (50, 100): '22.5±0.1 6.28±0.08 22.9±0.1 6.62±0.11',
  (50, 200): '21.4±0.1 5.82±0.03 22.3±0.1 6.37±0.04',
  (50, 400): '20.9±0.1 5.51±0.03 22.3±0.1 6.40±0.06',
  (101, 100): '20.2±0.1 5.12±0.03 21.2±0.1 5.66±0.05',
  (101, 200): '19.4±0.1 4.76±0.03 20.9±0.1 5.66±0.04',
  (101, 400): '19.0±<0.01 4.65±0.05 22.3±0.1 6.41±0.06',
  (152, 100): '19.2±<0.01 4.69±0.04 20.4 5.39±0.06',
  (152, 200): '18.5±0.1 4.37±0.03 20.3±0.2 5.39±0.07',
  (152, 400): '18.4±<0.01 4.35±0.04 20.9 5.84±0.07',
}
METHODS: tuple[cells_lib.Fields, ...] = (
  {'method.name': 'sam', 'method.rho': 0.05},
  {'method.name': 'sgd', 'method.rho': None},
)
_METRICS = ('error_rate', 'top5_error_rate')


def get_sweep() -> cells_lib.Sweep:
  """Returns 9 x 2 x 5 cells."""
  cells, paper = [], []
  for (depth, epochs), text in TABLE.items():
    fields = {
      'data.name': 'imagenet2012',
      'data.split': 'test',
      'model.name': f'Resnet{depth}',
      'num_epochs': epochs,
    }
    numbers = paper_lib.numbers(text)
    for method, of_method in zip(
      METHODS, (numbers[:2], numbers[2:]), strict=True
    ):
      cell = {'config': f'configs/imagenet.py:{depth},{epochs}'} | method
      cells += cells_lib.product([cell], {'seed': range(5)})
      paper += [
        paper_lib.Paper(fields | method, *number, metric)
        for number, metric in zip(of_method, _METRICS, strict=True)
      ]
  return cells_lib.Sweep(cells, paper=paper)

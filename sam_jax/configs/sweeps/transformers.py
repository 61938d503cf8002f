"""ResNet, ViT and Mixer with SAM and GSAM: table 1 of the paper of GSAM.

    python -m sam_jax.sweep --sweep=transformers \
        --workdir=runs/transformers --set=data.directory=DIR

ImageNet from scratch, twelve models, without SAM, with it and with GSAM (Zhuang
et al. 2022). The column of SAM is that of Chen et al. 2022, too (arXiv
2106.01548): ViT-B/16 gains 5.3 points, Mixer-B/16 11.0. The recipes, and what
is known of them, are in configs/imagenet_vit.py; rho of SAM is not known for
most of the models. The papers print no intervals; here are five seeds.

23 million gradient evaluations, of batches of 4096: on a TPU pod with
`--emit=tpu`. `--only=model.name=ViT-B/32` is one model.
"""

from sam_jax.sweeps import cells as cells_lib, paper as paper_lib

# Error without SAM, with it, with GSAM: 100 - the accuracy of the table.
TABLE = {
  'Resnet50': '24.0 23.1 22.8',
  'Resnet101': '22.2 21.4 21.1',
  'Resnet152': '21.5 20.7 20.0',
  'ViT-S/32': '31.6 29.5 26.2',
  'ViT-S/16': '25.6 21.9 20.5',
  'ViT-B/32': '28.6 26.4 23.2',
  'ViT-B/16': '25.4 20.1 19.0',
  'Mixer-S/32': '36.1 33.3 31.4',
  'Mixer-S/16': '31.2 27.1 25.0',
  'Mixer-S/8': '29.8 24.1 23.2',
  'Mixer-B/32': '37.5 27.6 26.4',
  'Mixer-B/16': '33.6 22.6 22.2',
}
# The recipe, and what is changed of its method.
METHODS: tuple[tuple[str, cells_lib.Fields], ...] = (
  ('sam', {'method.name': 'sgd', 'method.rho': None}),
  ('sam', {'method.name': 'sam'}),
  ('gsam', {'method.name': 'gsam'}),
)


def get_sweep() -> cells_lib.Sweep:
  """Returns 12 x 3 x 5 cells."""
  cells, paper = [], []
  for model, text in TABLE.items():
    fields = {
      'data.name': 'imagenet2012',
      'data.split': 'test',
      'model.name': model,
    }
    numbers = paper_lib.numbers(text)
    for (recipe, method), number in zip(METHODS, numbers, strict=True):
      cell = {'config': f'configs/imagenet_vit.py:{recipe},{model}'} | method
      cells += cells_lib.product([cell], {'seed': range(5)})
      name = {'method.name': method['method.name']}
      paper.append(paper_lib.Paper(fields | name, *number))
  return cells_lib.Sweep(cells, paper=paper)

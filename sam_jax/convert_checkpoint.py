r"""Turns an official checkpoint into a run directory.

The checkpoint is one of the official release of SAM of 2020, or an .npz file of
google-research/vision_transformer (ViT, MLP-Mixer).

    python -m sam_jax.convert_checkpoint --input=checkpoint_200 \
        --model=WideResnet28x10 --output=runs/official \
        --mean=0.491,0.482,0.447 --std=0.247,0.243,0.262

`sam_jax.load('runs/official')` and `--config.init_from=runs/official` take the
result. The command prints what the file holds, and without --model and --output
it does nothing else. The file does not say on which data set the model was
trained, so flags give the name of the data set (sam_jax.evaluate needs it), the
size of the images, their mean and their standard deviation.

Exit status: 0 done, 2 the file or the output is not usable.
"""

import collections
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sam_jax import _cli, datasets, lookup, models, types
from sam_jax.configs import default
from sam_jax.runs import (
  checkpoints,
  factories,
  files,
  initialization,
  lock,
  pretrained,
  workdir,
)

flags = _cli.Flags()
_INPUT = flags.DEFINE_string(
  'input',
  None,
  'File (msgpack or .npz), or a directory with files checkpoint_<N> or one '
  'named checkpoint.',
  required=True,
)
_MODEL = flags.DEFINE_string('model', None, 'Name of the model.')
_OUTPUT = flags.DEFINE_string(
  'output', None, 'Run directory to write: a new one, or empty.'
)
_DATA = flags.DEFINE_string(
  'data',
  '',
  'Name of the data set that the model was trained on, if sam_jax has it.',
)
_IMAGE_SIZE = flags.DEFINE_integer(
  'image_size',
  None,
  "Height and width of the images. Default: the model's resolution if it has "
  'one, 224 for ViT and Mixer, else 32.',
  lower_bound=1,
)
_CHANNELS = flags.DEFINE_integer(
  'channels', 3, 'Channels of the images.', lower_bound=1
)
_MEAN = flags.DEFINE_list(
  'mean',
  None,
  'Mean of each channel of the training images, in [0, 1], such as '
  "0.49,0.48,0.45. Default: ImageNet's for ResNets and EfficientNets, 0.5 for "
  'ViT and Mixer.',
)
_STD = flags.DEFINE_list(
  'std', None, 'Standard deviation of each channel, likewise.'
)

Variables = Mapping[str, Any]

# Mean and standard deviation of the images, by the first letters of a model.
_Known = Mapping[tuple[str, ...], list[str]]
_MEANS: _Known = {
  ('Resnet', 'efficientnet'): ['0.485', '0.456', '0.406'],  # ImageNet's
  ('ViT', 'Mixer'): ['0.5'] * 3,  # pixels in [-1, 1]
}
_STDS: _Known = {
  ('Resnet', 'efficientnet'): ['0.229', '0.224', '0.225'],
  ('ViT', 'Mixer'): ['0.5'] * 3,
}
_LARGE_SIZE = 224  # of the images that a ViT or a Mixer is meant for


def main(argv: Sequence[str]) -> None:
  """Does what the flags say; raises if it cannot be done."""
  _cli.refuse_arguments(argv[1:])
  if (_MODEL.value is None) != (_OUTPUT.value is None):
    raise ValueError('give both --model and --output, or neither')
  source = files.user_path(_INPUT.value)
  if _MODEL.value is None:
    print(_inventory(pretrained.read_official(source)))
    return
  mean = _per_channel(_MEAN, _MEANS)
  std = _per_channel(_STD, _STDS)
  output = files.run_directory(_OUTPUT.value)
  _check_free(output)
  if _DATA.value:
    lookup.check('data set', _DATA.value, datasets.names())
  loaded = pretrained.read_official(source)
  num_classes, image_size = _sizes(_MODEL.value, loaded['params'])
  fitted = pretrained.fit(
    _shapes(_MODEL.value, num_classes, image_size),
    loaded,
    source=str(source),
    num_classes=num_classes,
  )
  info = {
    'num_classes': num_classes,
    'image_shape': [image_size, image_size, _CHANNELS.value],
    'mean': mean,
    'std': std,
  }
  with lock.hold(output):
    _check_free(output)
    _write(output, _MODEL.value, fitted.variables, info)
  print(_inventory(loaded))
  print(
    '; '.join(
      [f'{output}: {_MODEL.value}, {num_classes} classes', *fitted.changes]
    )
    + '; names and shapes fit'
  )


def _per_channel(flag: Any, known: _Known) -> list[float]:
  """Returns the numbers of a flag, or those of the model's checkpoints."""
  given = flag.value
  if given is None:
    found = (v for k, v in known.items() if _MODEL.value.startswith(k))
    given = next(found, None)
  if given is None:
    raise ValueError(
      f'give --{flag.name}, that of the images which {_MODEL.value} was '
      'trained on; the file does not say'
    )
  try:
    values = [float(text) for text in given]
  except ValueError:
    values = []
  if len(values) != _CHANNELS.value:
    raise ValueError(
      f'--{flag.name} is {",".join(given)}; it must be '
      f'{_CHANNELS.value} numbers, one per channel'
    )
  return values


def _check_free(output: pathlib.Path) -> None:
  """Refuses to write over anything."""
  held = set(lock.NAMES)  # by this process
  is_free = not output.exists() or (
    output.is_dir() and {path.name for path in output.iterdir()} <= held
  )
  if not is_free:
    raise ValueError(f'--output {output} exists already; give a new directory')


def _sizes(name: str, params: Variables) -> tuple[int, int]:
  """Returns the classes that a file has, and the model's image size."""
  # Of a model with a single class, the classifier is what has one output.
  model = models.create(name, num_classes=1)
  usual = _LARGE_SIZE if name.startswith(('ViT', 'Mixer')) else 32
  own = getattr(model, 'resolution', None)
  image_size = _IMAGE_SIZE.value or own or usual
  ours = _flatten(_shapes(name, 1, image_size)['params'])
  theirs = _flatten(params)
  heads = [k for k, v in ours.items() if v.ndim == 2 and v.shape[-1] == 1]
  classes = [theirs[k].shape[-1] for k in heads if k in theirs]
  return (classes or [1])[0], image_size


def _shapes(name: str, num_classes: int, image_size: int) -> Variables:
  """Returns the shapes of a model's variables."""
  model = models.create(name, num_classes=num_classes)
  images = jnp.zeros((1, image_size, image_size, _CHANNELS.value))
  return jax.eval_shape(lambda: initialization.init_variables(model, images, 0))


def _write(
  output: pathlib.Path, name: str, variables: Variables, info: dict[str, Any]
) -> None:
  """Writes a run directory with one checkpoint, before step 0."""
  config = default.get_config()
  config.model.name = name
  config.method.name = 'sgd'
  config.data.name = _DATA.value
  workdir.write_config(output, config)
  method = factories.create_method(config)
  state = {**variables, 'method_state': method.init(variables['params'])}
  saved = checkpoints.Checkpoints(
    output / 'checkpoints', run_id=workdir.run_id(output)
  )
  try:
    saved.save(state, checkpoints.JournalState(), info)
  finally:
    saved.close()


def _inventory(loaded: Variables) -> str:
  """Returns a table of what a file holds."""
  modules = collections.defaultdict(list)
  for path, array in _flatten(loaded['params']).items():
    modules[path.partition('/')[0]].append(array)
  statistics = list(_flatten(loaded['batch_stats']).values())
  everything = [array for arrays in modules.values() for array in arrays]
  width = max(map(len, [*modules, 'batch statistics']))
  lines = [f'{"module":{width}}  arrays   parameters       MiB']
  lines += [_row(k, modules[k], width) for k in sorted(modules)]
  lines.append(_row('total', everything, width))
  lines.append(_row('batch statistics', statistics, width))
  return '\n'.join(lines)


def _row(name: str, arrays: Sequence[np.ndarray], width: int) -> str:
  """Returns a line of the table."""
  count = sum(array.size for array in arrays)
  size = sum(array.nbytes for array in arrays) / 2**20
  return f'{name:{width}}  {len(arrays):6}  {count:11,}  {size:8.2f}'


def _flatten(tree: types.PyTree) -> dict[str, Any]:
  """Returns {'Dense_0/kernel': array}."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def cli() -> None:
  """Runs the command with the arguments of this process."""
  _cli.run(main, 'convert_checkpoint', flags)


if __name__ == '__main__':
  cli()

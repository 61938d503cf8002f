"""Files as the official release's flax 0.2.2 wrote them."""

import msgpack
import numpy as np

_NDARRAY = 1  # flax's extension type


def pack(tree):
  """Returns the bytes of nested dicts of arrays and numbers."""
  return msgpack.packb(tree, default=_pack_array, strict_types=True)


def _pack_array(array):
  """An array as flax 0.2.2 packed it; flax now writes 'float32'."""
  content = (array.shape, array.dtype.str, array.tobytes())
  return msgpack.ExtType(_NDARRAY, msgpack.packb(content, use_bin_type=True))


def variables(seed):
  """Returns variables of no model in particular."""
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  return {
    'params': {
      'Block_0': {
        'bn': {'bias': draw(3), 'scale': draw(3)},
        'conv1': {'kernel': draw(1, 1, 2, 3)},
      },
      'Dense_1': {'bias': draw(4), 'kernel': draw(3, 4)},
    },
    'batch_stats': {'Block_0': {'bn': {'mean': draw(3), 'var': draw(3)}}},
  }


def _state(batch_stats, prefix=''):
  """Returns {'/Block_0/bn': {'mean', 'var'}} as flax 0.2.2 kept them."""
  if 'mean' in batch_stats:
    return {prefix: batch_stats}
  state = {}
  for name, child in batch_stats.items():
    state |= _state(child, f'{prefix}/{name}')
  return state


def _model(params):
  """Modules without parameters left an empty dict."""
  return {'params': params | {'Shortcut_1': {}}}


def pair(variables):
  """Returns the layout of the published EfficientNets."""
  return {
    '0': _model(variables['params']),
    '1': _state(variables['batch_stats']),
  }


def training(variables):
  """Returns the layout of a training run's checkpoint."""
  momentum = {'step': np.array(5, np.int32), 'param_states': {}}
  target = _model(variables['params'])
  return {
    'optimizer': {'target': target, 'state': momentum},
    'model_state': _state(variables['batch_stats']),
    'epoch': 7,
  }


def with_ema(average, raw=None):
  """Returns the same of a run that averages; `raw` is what it trains."""
  tree = training(average if raw is None else raw)
  ema = {'param_ema': pair(average), 'decay': 0.999, 'warmup_steps': 1560.0}
  return tree | {'model_state': {'0': tree['model_state'], '1': ema}}


LAYOUTS = {'training': training, 'ema': with_ema, 'pair': pair}

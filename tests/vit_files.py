"""Checkpoints with the names of vision_transformer; its models in numpy."""

import numpy as np
import scipy.special

PATCH, WIDTH, DEPTH, HEADS, MLP, CLASSES = 4, 8, 2, 2, 12, 5
TOKENS_MLP = 6


def vit(grid=2, *, classes=CLASSES, channels=3, pre_logits=False, seed=0):
  """Returns the arrays of a ViT with a class token, by their names."""
  draw = _draws(seed)
  head = WIDTH // HEADS
  arrays = {
    'cls': draw(1, 1, WIDTH),
    'embedding/kernel': draw(PATCH, PATCH, channels, WIDTH),
    'embedding/bias': draw(WIDTH),
    'Transformer/posembed_input/pos_embedding': draw(1, grid**2 + 1, WIDTH),
    **_norm(draw, 'Transformer/encoder_norm'),
    **_dense(draw, 'head', WIDTH, classes),
  }
  for i in range(DEPTH):
    block = f'Transformer/encoderblock_{i}'
    attention = f'{block}/MultiHeadDotProductAttention_1'
    for name in ('query', 'key', 'value'):
      arrays[f'{attention}/{name}/kernel'] = draw(WIDTH, HEADS, head)
      arrays[f'{attention}/{name}/bias'] = draw(HEADS, head)
    arrays[f'{attention}/out/kernel'] = draw(HEADS, head, WIDTH)
    arrays[f'{attention}/out/bias'] = draw(WIDTH)
    arrays |= _norm(draw, f'{block}/LayerNorm_0')
    arrays |= _norm(draw, f'{block}/LayerNorm_2')
    arrays |= _dense(draw, f'{block}/MlpBlock_3/Dense_0', WIDTH, MLP)
    arrays |= _dense(draw, f'{block}/MlpBlock_3/Dense_1', MLP, WIDTH)
  if pre_logits:
    arrays |= _dense(draw, 'pre_logits', WIDTH, WIDTH)
  return arrays


def mixer(grid=2, *, classes=CLASSES, channels=3, seed=0):
  """Returns the arrays of an MLP-Mixer, by their names."""
  draw = _draws(seed)
  arrays = {
    'stem/kernel': draw(PATCH, PATCH, channels, WIDTH),
    'stem/bias': draw(WIDTH),
    **_norm(draw, 'pre_head_layer_norm'),
    **_dense(draw, 'head', WIDTH, classes),
  }
  for i in range(DEPTH):
    block = f'MixerBlock_{i}'
    arrays |= _norm(draw, f'{block}/LayerNorm_0')
    arrays |= _norm(draw, f'{block}/LayerNorm_1')
    tokens, channels_mlp = f'{block}/token_mixing', f'{block}/channel_mixing'
    arrays |= _dense(draw, f'{tokens}/Dense_0', grid**2, TOKENS_MLP)
    arrays |= _dense(draw, f'{tokens}/Dense_1', TOKENS_MLP, grid**2)
    arrays |= _dense(draw, f'{channels_mlp}/Dense_0', WIDTH, MLP)
    arrays |= _dense(draw, f'{channels_mlp}/Dense_1', MLP, WIDTH)
  return arrays


def write(path, arrays):
  """Writes an .npz file; returns its path."""
  np.savez(path, **arrays)
  return path


def vit_logits(arrays, images):
  """The forward pass of a ViT, in float64."""
  w = {name: array.astype(np.float64) for name, array in arrays.items()}
  x = _patches(images) @ w['embedding/kernel'].reshape(-1, WIDTH)
  x = x + w['embedding/bias']
  token = np.tile(w['cls'], (len(x), 1, 1))
  x = np.concatenate([token, x], axis=1)
  x = x + w['Transformer/posembed_input/pos_embedding']
  for i in range(DEPTH):
    block = f'Transformer/encoderblock_{i}'
    y = _normalise(w, f'{block}/LayerNorm_0', x)
    x = x + _attend(w, f'{block}/MultiHeadDotProductAttention_1', y)
    y = _normalise(w, f'{block}/LayerNorm_2', x)
    x = x + _mlp(w, f'{block}/MlpBlock_3', y)
  x = _normalise(w, 'Transformer/encoder_norm', x)[:, 0]
  if 'pre_logits/kernel' in w:
    x = np.tanh(x @ w['pre_logits/kernel'] + w['pre_logits/bias'])
  return x @ w['head/kernel'] + w['head/bias']


def mixer_logits(arrays, images):
  """The forward pass of an MLP-Mixer, in float64."""
  w = {name: array.astype(np.float64) for name, array in arrays.items()}
  x = _patches(images) @ w['stem/kernel'].reshape(-1, WIDTH) + w['stem/bias']
  for i in range(DEPTH):
    block = f'MixerBlock_{i}'
    y = _normalise(w, f'{block}/LayerNorm_0', x)
    y = _mlp(w, f'{block}/token_mixing', np.moveaxis(y, 1, 2))
    x = x + np.moveaxis(y, 1, 2)
    y = _normalise(w, f'{block}/LayerNorm_1', x)
    x = x + _mlp(w, f'{block}/channel_mixing', y)
  x = _normalise(w, 'pre_head_layer_norm', x).mean(axis=1)
  return x @ w['head/kernel'] + w['head/bias']


def _draws(seed):
  rng = np.random.default_rng(seed)
  return lambda *shape: rng.normal(0, 0.5, shape).astype(np.float32)


def _norm(draw, name):
  return {f'{name}/scale': 1 + draw(WIDTH), f'{name}/bias': draw(WIDTH)}


def _dense(draw, name, inputs, outputs):
  return {
    f'{name}/kernel': draw(inputs, outputs),
    f'{name}/bias': draw(outputs),
  }


def _patches(images):
  """[rows, patches, pixels of a patch], row by row."""
  rows, height, width, channels = images.shape
  cut = (rows, height // PATCH, PATCH, width // PATCH, PATCH, channels)
  x = images.reshape(cut).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(rows, -1, PATCH * PATCH * channels)


def _normalise(w, name, x):
  x = x - x.mean(axis=-1, keepdims=True)
  x = x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6)
  return x * w[f'{name}/scale'] + w[f'{name}/bias']


def _mlp(w, name, x):
  x = x @ w[f'{name}/Dense_0/kernel'] + w[f'{name}/Dense_0/bias']
  x = x * scipy.special.expit(np.sqrt(8 / np.pi) * (x + 0.044715 * x**3))
  return x @ w[f'{name}/Dense_1/kernel'] + w[f'{name}/Dense_1/bias']


def _attend(w, name, x):
  q, k, v = (
    np.einsum('rtw,whd->rhtd', x, w[f'{name}/{part}/kernel'])
    + w[f'{name}/{part}/bias'][:, None]
    for part in ('query', 'key', 'value')
  )
  scores = q @ k.swapaxes(2, 3) / np.sqrt(WIDTH // HEADS)
  y = scipy.special.softmax(scores, axis=-1) @ v
  y = np.einsum('rhtd,hdw->rtw', y, w[f'{name}/out/kernel'])
  return y + w[f'{name}/out/bias']

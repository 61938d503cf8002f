"""The networks and steps of the benchmark in PyTorch are ours.

It is not installed where the tests usually run: `pip install -e .[torch]`.
"""

import copy
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import sam_jax
from sam_jax import models, tree
from sam_jax.configs import default, text
from sam_jax.tasks import losses
from sam_jax.training import optimizers

torch = pytest.importorskip('torch')

from scripts.benchmarking import torch_networks, torch_step  # noqa: E402

BATCH_SIZE = 4
CLASSES = 5
RHO = 0.5  # large enough to tell SAM from SGD
pytestmark = pytest.mark.usefixtures('one_torch_thread')


class _Dense(nn.Module):
  """A model whose gradients are all far from zero, as Adam needs them."""

  @nn.compact
  def __call__(self, x, *, train):
    del train
    return nn.Dense(CLASSES)(x.reshape(len(x), -1))


class Case(NamedTuple):
  """A network of ours, the same one in PyTorch, and how it is trained."""

  ours: nn.Module
  theirs: Any
  layers: Any  # `params -> layers`, in the order of those of `theirs`
  shape: tuple[int, ...]  # of an input
  is_turned: bool = False  # see scripts/benchmarking/torch_networks.py
  optimizer: str = 'sgd'
  m: int = BATCH_SIZE
  b: int = BATCH_SIZE


def _wide_resnet(params):
  yield params['init_conv']
  for group in range(3):
    blocks = params[f'WideResnetGroup_{group}']
    for i in range(len(blocks)):
      block = blocks[f'WideResnetBlock_{i}']
      yield from (block[k] for k in ('init_bn', 'conv1', 'bn_2', 'conv2'))
  yield from (params['pre-pool-bn'], params['Dense_3'])


def _resnet(params):
  yield from (params['conv_init'], params['bn_init'])
  blocks = [k for k in params if k.startswith('Bottleneck')]
  for i in range(len(blocks)):
    block = params[f'BottleneckResNetBlock_{i}']
    names = ('Conv_0', 'BatchNorm_1', 'Conv_2', 'BatchNorm_3', 'Conv_4')
    names += ('BatchNorm_5', 'conv_proj', 'norm_proj')
    yield from (block[k] for k in names if k in block)
  yield params[f'Dense_{len(blocks)}']


def _vit(params):
  encoder = params['Transformer']
  yield {
    'token': params['cls'],
    'positions': encoder['posembed_input']['pos_embedding'],
  }
  yield params['embedding']
  for i in range(sum(k.startswith('encoderblock') for k in encoder)):
    block = encoder[f'encoderblock_{i}']
    heads = block['MultiHeadDotProductAttention_1']
    width = heads['query']['kernel'].shape[0]
    parts = [heads[k] for k in ('query', 'key', 'value')]
    yield block['LayerNorm_0']
    yield {
      'kernel': np.hstack([p['kernel'].reshape(width, -1) for p in parts]),
      'bias': np.hstack([p['bias'].ravel() for p in parts]),
    }
    out = heads['out']
    yield {**out, 'kernel': out['kernel'].reshape(-1, width)}
    yield block['LayerNorm_2']
    yield from (block['MlpBlock_3'][f'Dense_{j}'] for j in range(2))
  yield from (encoder['encoder_norm'], params['head'])


def _gpt(params):
  yield from (params['token_embedding'], params['position_embedding'])
  for i in range(sum(k.startswith('block') for k in params)):
    names = ('attention_norm', 'qkv', 'attention_out')
    names += ('mlp_norm', 'mlp_in', 'mlp_out')
    yield from (params[f'block_{i}'][k] for k in names)
  yield params['final_norm']


CASES = {
  'wide_resnet': lambda: Case(
    models.create('WideResnet16x1', num_classes=CLASSES),
    torch_networks.create('WideResnet16x1', num_classes=CLASSES, image_size=8),
    _wide_resnet,
    (8, 8, 3),
    is_turned=True,
  ),
  'resnet': lambda: Case(
    models.create('resnet', num_classes=CLASSES, stage_sizes=(2, 1), width=4),
    torch_networks.ResNet(CLASSES, stage_sizes=(2, 1), width=4),
    _resnet,
    (32, 32, 3),
    is_turned=True,
  ),
  'vit': lambda: Case(
    models.create(
      'vit', num_classes=CLASSES, patch=4, width=8, depth=2, heads=2
    ),
    torch_networks.VisionTransformer(CLASSES, 4, 6, 8, depth=2, heads=2),
    _vit,
    (8, 12, 3),
  ),
  'gpt': lambda: Case(
    models.create(
      'gpt', num_classes=CLASSES, width=8, depth=2, heads=2, context_length=6
    ),
    torch_networks.Gpt(CLASSES, 6, 8, depth=2, heads=2),
    _gpt,
    (6,),
  ),
  'adamw': lambda: Case(
    _Dense(),
    torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, CLASSES)),
    lambda params: params.values(),
    (1, 1, 6),
    optimizer='adamw',
    m=2,
    b=1,
  ),
}


@pytest.mark.parametrize('name', CASES)
def test_it_trains_our_network(name):
  case = CASES[name]()
  variables, inputs, classes = _draw(case)
  recipe = dataclasses.replace(torch_step.RECIPES[case.optimizer], rho=RHO)
  _load(case.theirs, case, variables['params'])
  trainer = torch_step.Trainer(
    case.theirs, recipe, m=case.m, microbatch_size=case.b
  )
  given = _to_torch(inputs, case.is_turned), torch.from_numpy(classes)
  optimizer = _our_optimizer(case, recipe, variables['params'])
  step = jax.jit(_our_step(case, optimizer))
  params, stats = variables['params'], variables['batch_stats']
  opt_state = optimizer.init(params)
  logits, norm, *state = step(params, stats, opt_state, inputs, classes)
  their_logits, their_norm = _look(trainer, case.b, *given)
  np.testing.assert_allclose(their_logits, logits, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(their_norm, norm, rtol=1e-4)
  trainer.update(*given)
  _, _, params, stats, _ = step(*state, inputs, classes)
  trainer.update(*given)
  expected = copy.deepcopy(case.theirs)
  _load(expected, case, params)
  for key, value in expected.named_parameters():
    found = case.theirs.get_parameter(key)
    np.testing.assert_allclose(
      *(x.detach().numpy() for x in (found, value)),
      rtol=1e-4,
      atol=1e-4 * recipe.learning_rate,
      err_msg=key,
    )
  norms = [m for m in case.theirs.modules() if hasattr(m, 'running_mean')]
  layers = case.layers(_merge(params, stats))
  means = [layer['mean'] for layer in layers if 'mean' in layer]
  for norm, mean in zip(norms, means, strict=True):  # of the first passes alone
    np.testing.assert_allclose(norm.running_mean, mean, rtol=1e-4, atol=1e-6)


def _draw(case):
  """Returns variables that are not at their initial zeros, and a batch."""
  rng = np.random.default_rng(0)
  shape = (BATCH_SIZE, *case.shape)
  if len(case.shape) == 1:
    inputs = rng.integers(0, CLASSES, shape).astype(np.int32)
    classes = rng.integers(0, CLASSES, shape)
  else:
    inputs = rng.normal(size=shape).astype(np.float32)
    classes = rng.integers(0, CLASSES, BATCH_SIZE)

  def draw(path, leaf):
    name = path[-1].key
    if name in ('mean', 'var'):
      return np.full(leaf.shape, name == 'var', np.float32)
    spread = np.prod(leaf.shape[:-1]) ** -0.5 if name == 'kernel' else 0.2
    values = rng.normal(scale=spread, size=leaf.shape).astype(np.float32)
    return values + (name == 'scale')

  shapes = _our_variables(case.ours, inputs)
  variables = jax.tree_util.tree_map_with_path(draw, shapes)
  return {'batch_stats': {}, **variables}, inputs, classes


def _our_variables(model, inputs):
  """Returns the shapes of our variables."""
  key = jax.random.key(0)
  return jax.eval_shape(lambda x: model.init(key, x, train=False), inputs)


def _load(network, case, params):
  """Gives a network in PyTorch the parameters of ours."""
  modules = [m for m in network.modules() if [*m.parameters(recurse=False)]]
  layers = case.layers(jax.device_get(params))
  for module, layer in zip(modules, layers, strict=True):
    for name, value in _renamed(module, layer, case.is_turned).items():
      param = module.get_parameter(name)
      assert param.shape == value.shape
      param.data = torch.from_numpy(value.copy())


def _renamed(module, layer, is_turned):
  """Returns the parameters of a layer, as PyTorch names and orders them."""
  values = dict(layer)
  for ours in ('scale', 'embedding', 'kernel'):
    if ours in values:
      values['weight'] = values.pop(ours)
  if isinstance(module, torch.nn.Linear):
    values['weight'] = values['weight'].T
  if isinstance(module, torch.nn.Conv2d):
    weight = values['weight'].transpose(3, 2, 0, 1)
    values['weight'] = weight[:, :, ::-1, ::-1] if is_turned else weight
  return values


def _to_torch(inputs, is_turned):
  """Returns inputs as the network in PyTorch takes them."""
  if inputs.ndim == 2:
    return torch.from_numpy(inputs)
  turned = inputs[:, ::-1, ::-1] if is_turned else inputs
  return torch.from_numpy(turned.transpose(0, 3, 1, 2).copy())


def _our_optimizer(case, recipe, params):
  """Returns what scripts/benchmark_step.py has after the gradient."""
  config = default.get_config()
  options = {}
  if case.optimizer == 'adamw':
    text.adamw(config)
    options['b1'] = config.optimizer.b1
  return optimizers.create(
    case.optimizer,
    params,
    learning_rate=recipe.learning_rate,
    gradient_clipping=config.gradient_clipping,
    weight_decay=config.weight_decay.rate,
    weight_decay_place=config.weight_decay.place,
    weight_decay_exclude=config.weight_decay.exclude,
    **options,
  )


def _our_step(case, optimizer):
  """Returns a step of SAM, with the logits and the norm of the gradient."""

  def loss(params, stats, inputs, classes):
    outputs, updated = case.ours.apply(
      {'params': params, 'batch_stats': stats},
      inputs,
      train=True,
      mutable=['batch_stats'],
    )
    value = jnp.mean(losses.cross_entropy(outputs, classes))
    return value, (outputs, updated.get('batch_stats', {}))

  def group_loss(params, stats, inputs, classes):
    pieces = zip(_split(inputs, case.b), _split(classes, case.b), strict=True)
    values, aux = zip(*(loss(params, stats, *p) for p in pieces), strict=True)
    penalty = optimizer.descent_penalty
    total = sum(values) / len(values) + (penalty(params) if penalty else 0.0)
    outputs = jnp.concatenate([out for out, _ in aux])
    return total, (outputs, aux[0][1])

  gradient = sam_jax.value_and_grad(
    group_loss, sam_jax.l2(RHO), has_aux=True, with_info=True
  )

  def step(params, stats, opt_state, inputs, classes):
    groups = zip(_split(inputs, case.m), _split(classes, case.m), strict=True)
    found = [gradient(params, stats, *group) for group in groups]
    mean = lambda *leaves: sum(leaves) / len(leaves)
    grads = jax.tree.map(mean, *(grads for _, grads, _ in found))
    ascent = jax.tree.map(mean, *(info.ascent_grads for *_, info in found))
    if penalty := optimizer.descent_penalty:
      ascent = jax.tree.map(jnp.subtract, ascent, jax.grad(penalty)(params))
    logits = jnp.concatenate([out[1][0] for out, *_ in found])
    updates, opt_state = optimizer.update(grads, opt_state, params)
    new_params = optax.apply_updates(params, updates)
    new_stats = found[0][0][1][1]
    return logits, tree.norm(ascent), new_params, new_stats, opt_state

  return step


def _split(array, size):
  return list(array.reshape(-1, size, *array.shape[1:]))


def _look(trainer, b, inputs, classes):
  """Returns logits, and the norm of the gradient, of the same in PyTorch."""
  network = copy.deepcopy(trainer.network)
  logits = torch.cat([network(piece) for piece in inputs.split(b)])
  torch.nn.functional.cross_entropy(
    logits.flatten(0, -2), classes.flatten()
  ).backward()
  grads = [param.grad for param in network.parameters()]
  return logits.detach(), torch.nn.utils.get_total_norm(grads)


def _merge(first, second):
  """Returns nested dicts with the leaves of both."""
  if not isinstance(first, dict):
    return first
  second = dict(second)
  merged = {k: _merge(v, second.pop(k, {})) for k, v in first.items()}
  return merged | second

"""The script of the benchmark in PyTorch: networks, crops, and what it says.

It is not installed where the tests usually run: `pip install -e .[torch]`.
"""

import itertools
import json
import pathlib
import re
import runpy
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax import extras, models

torch = pytest.importorskip('torch')

from scripts import benchmark_torch  # noqa: E402
from scripts.benchmarking import (  # noqa: E402
  flops,
  torch_networks,
  torch_step,
)

_CLASSES = 5
_SCRIPT = pathlib.Path(benchmark_torch.__file__)
pytestmark = pytest.mark.usefixtures('one_torch_thread')


@pytest.mark.parametrize(
  ('name', 'size'),
  [
    ('WideResnet16x4', 32),
    ('Resnet50', 224),
    ('ViT-S/16', 224),
    ('gpt-tiny', 128),
    ('gpt2', 1024),
  ],
)
def test_it_has_the_parameters_and_flops_of_ours(name, size):
  is_text = torch_networks.is_text(name)
  shape = (2, size) if is_text else (2, 3, size, size)
  with torch.device('meta'):
    theirs = torch_networks.create(
      name, num_classes=_CLASSES, image_size=size, context_length=size
    )
    inputs = torch.zeros(shape, dtype=torch.long if is_text else torch.float)
  more = {'context_length': size} if is_text else {}
  ours = models.create(name, num_classes=_CLASSES, **more)
  if is_text:
    spec = jax.ShapeDtypeStruct(shape, jnp.int32)
  else:
    spec = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
  variables = jax.eval_shape(
    lambda x: ours.init(jax.random.key(0), x, train=False), spec
  )
  params = variables.pop('params')
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert sum(p.numel() for p in theirs.parameters()) == count

  def loss(params, stats, inputs):
    outputs, _ = ours.apply(
      {'params': params, **stats}, inputs, train=True, mutable=['batch_stats']
    )
    return jnp.sum(outputs)

  gradient = jax.make_jaxpr(jax.grad(loss))(params, variables, spec)
  assert torch_step.count_flops(theirs, inputs) == flops.count(gradient)


def test_the_crops_are_those_of_the_padded_images():
  torch.manual_seed(0)
  images = torch.arange(300 * 7 * 6).reshape(300, 7, 6, 1)
  found = torch_step.flip_and_crop(images, padding=2)
  seen = set()
  for image, crop in zip(images.numpy(), found.numpy(), strict=True):
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode='reflect')
    seen.add(
      next(
        (row, column, flip)
        for row, column, flip in itertools.product(range(5), range(5), (1, -1))
        if np.array_equal(
          padded[row : row + 7, column : column + 6][:, ::flip], crop
        )
      )
    )
  assert len(seen) == 50


# It runs where JAX is not installed, or must not take the GPU.
def test_a_worker_answers_without_jax():
  code = (
    'import runpy, sys\n'
    "sys.modules.update({'jax': None, 'sam_jax': None})\n"
    'del sys.argv[0]\n'
    "runpy.run_path(sys.argv[0], run_name='__main__')\n"
  )
  flags = ('--network=WideResnet10x1', '--batch_size=4', '--image_size=8')
  flags += ('--m=2', '--method=sam', '--layout=channels_last', '--serve')
  flags += ('--compute_dtype=bfloat16',)
  done = subprocess.run(
    [sys.executable, '-c', code, str(_SCRIPT), *flags],
    input='{"steps": 2}\n{"steps": 1}\n',
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  about, *times = map(json.loads, done.stdout.splitlines())
  assert about['name'] == 'torch channels_last bfloat16'
  assert about['parameters'] == 75_290
  assert about['flops'] > 0
  assert about['memory_bytes'] is None
  assert about['microbatch_size'] == 2
  assert about['versions']['torch'] == torch.__version__
  assert len(times) == 2
  assert all(answer['seconds'] > 0 for answer in times)


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--network=Resnet18'], "unknown network 'Resnet18'; use WideResnet"),
    (['--network=WideResnet11x1'], 'depth of 6n + 4'),
    (['--network=ViT-Ti/5'], 'multiple of 5, got 32'),
    (['--network=Resnet50', '--image_size=40'], 'multiple of 32, got 40'),
    (['--batch_size=8', '--m=3'], 'microbatch_size must divide m'),
    (['--network=WideResnet10x1', '--image_size=4'], 'images of 4x4 pixels'),
    (['--batch_size=0'], '0 is not positive'),
    (['--methd=sam'], 'unrecognized arguments: --methd=sam'),
    (['--parameters=3'], 'has 366,938 parameters in PyTorch, and'),
  ],
)
def test_what_is_wrong_is_one_line(flags, message, capsys):
  assert benchmark_torch.main(flags) == 2
  out, err = capsys.readouterr()
  assert not out
  assert message in err and err.count('\n') == 1


def test_the_table_has_both_methods(capsys):
  flags = ['--network=gpt-tiny', '--batch_size=2', '--context_length=4']
  assert benchmark_torch.main([*flags, '--rounds=2', '--steps=1']) == 0
  title, _, *rows = capsys.readouterr().out.splitlines()
  assert title.startswith('gpt-tiny, 1,024,896 parameters, batch 2, m 2')
  assert [row.split()[0] for row in rows] == ['sgd', 'sam']


def test_without_torch_it_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  with pytest.raises(SystemExit, match=re.escape(extras.advice('torch'))):
    runpy.run_path(str(_SCRIPT))

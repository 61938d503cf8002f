"""The summary of a model: its rows, its totals, and its command line."""

import logging

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from sam_jax import models
from sam_jax.models import __main__ as cli, summary
from tests import reference, zoo


def _summarize(
  name, num_classes=10, image_shape=(32, 32, 3), depth=1, **kwargs
):
  model = models.create(name, num_classes=num_classes, **kwargs)
  return summary.summarize(model, image_shape, depth=depth)


def _by_path(table):
  return {'/'.join(row.path): row for row in table.rows}


@pytest.mark.parametrize(
  'key',
  [
    'WideResnet28x10/10',
    pytest.param('WideResnet28x6_ShakeShake/10', marks=pytest.mark.slow),
    'Pyramid_ShakeDrop_mini/10',
    pytest.param('Resnet50/1000', marks=pytest.mark.slow),
    pytest.param('efficientnet-b0/1000', marks=pytest.mark.slow),
  ],
)
def test_rows_hold_what_the_official_modules_hold(key):
  expected = reference.load_json('param_counts.json')[key]
  name, num_classes = key.split('/')
  model = models.create(name, num_classes=int(num_classes))
  size = summary.default_size(name, model)
  assert size == expected['image_size']
  table = summary.summarize(model, (size, size, 3))
  counts = {path: row.parameters for path, row in _by_path(table).items()}
  assert counts == expected['per_top_level_module']
  assert table.parameters == expected['total']
  assert table.parameter_bytes == 4 * expected['total']
  assert table.statistics == expected['batch_stats_total']


def _wide_resnet_flops(depth, width, size, classes, taps):
  """Closed form; taps(size, stride): kernel positions of a 3x3 convolution."""
  convolutions_per_group = (depth - 4) // 3
  total, channels = 3 * 16 * taps(size, 1), 16
  for group, base in enumerate((16, 32, 64)):
    stride = 1 if group == 0 else 2
    total += channels * base * width * taps(size, stride)
    channels, size = base * width, size // stride
    total += (convolutions_per_group - 1) * channels**2 * taps(size, 1)
  return 2 * (total + channels * classes)


def _all_taps(size, stride):
  return 9 * (size // stride) ** 2


def _taps_on_pixels(size, stride):
  # 'SAME' pads both ends at stride 1, and the far end only at stride 2.
  return (3 * (size // stride) - (2 if stride == 1 else 1)) ** 2


@pytest.mark.parametrize(('depth', 'width'), [(10, 1), (16, 4)])
def test_flops_of_wide_resnets_equal_the_closed_form(depth, width):
  table = _summarize(f'WideResnet{depth}x{width}')
  expected = _wide_resnet_flops(depth, width, 32, 10, _all_taps)
  assert table.flops == expected


def test_xla_counts_the_closed_form_without_padding_and_with_the_rest():
  table = _summarize('WideResnet16x10')
  convolutions = _wide_resnet_flops(16, 10, 32, 10, _taps_on_pixels)
  # BatchNorm, ReLU and additions are a few operations per activation, each of
  # which took at least 2 * 9 * 160 in its convolution.
  assert convolutions < table.xla_flops < 1.01 * convolutions


def test_flops_of_depthwise_convolutions_equal_the_closed_form():
  model, _ = zoo.tiny('efficientnet')
  rows = _by_path(summary.summarize(model, (16, 16, 3), depth=2))
  depthwise = rows['MBConvBlock_1/depthwise_conv2d']
  height, width, channels = map(int, depthwise.output.split('x'))
  assert (height, width, channels) == (8, 8, 8)  # half the size, 32 / 4
  assert depthwise.parameters == 3 * 3 * channels
  assert depthwise.flops == 2 * 3 * 3 * channels * height * width


@pytest.mark.parametrize(
  ('name', 'size', 'giga_multiply_adds'),
  [
    # He et al. 2016 print 3.8: their stride is in the first convolution.
    pytest.param('Resnet50', 224, 4.1, marks=pytest.mark.slow),
    # Tan and Le 2019, table 2
    pytest.param('efficientnet-b0', 224, 0.39, marks=pytest.mark.slow),
    ('WideResnet28x10', 32, 5.2),  # Zagoruyko and Komodakis 2016
  ],
)
def test_flops_are_twice_the_published_multiply_adds(
  name, size, giga_multiply_adds
):
  table = _summarize(name, 1000 if size > 32 else 10, (size, size, 3))
  # The figures have two digits.
  assert table.flops / 2e9 == pytest.approx(giga_multiply_adds, rel=0.02)


@pytest.mark.parametrize('architecture', ['cnn', 'efficientnet'])
def test_rows_add_up_to_the_totals_at_every_depth(architecture):
  model, size = zoo.tiny(architecture)
  shapes = zoo.shapes(model, (1, size, size, 3))
  totals = set()
  for depth in (1, 2, 5):
    table = summary.summarize(model, (size, size, 3), depth=depth)
    assert max(len(row.path) for row in table.rows) <= depth
    totals.add((table.parameters, table.statistics, table.flops))
  ((parameters, statistics, flops),) = totals
  assert parameters == zoo.size(shapes['params'])
  assert statistics == zoo.size(shapes.get('batch_stats', {}))
  assert flops > 0


def test_rows_stand_in_the_order_of_execution_below_what_they_are_in():
  paths = list(_by_path(_summarize('WideResnet10x1', depth=2)))
  assert paths == [
    'init_conv',
    'WideResnetGroup_0',
    'WideResnetGroup_0/WideResnetBlock_0',
    'WideResnetGroup_1',
    'WideResnetGroup_1/WideResnetBlock_0',
    'WideResnetGroup_2',
    'WideResnetGroup_2/WideResnetBlock_0',
    'pre-pool-bn',
    'Dense_3',
  ]


def test_rematerialised_blocks_count_the_same():
  plain, remat = (
    _summarize('WideResnet10x1', depth=3, remat=flag) for flag in (False, True)
  )
  assert plain.rows == remat.rows


class _Loop(nn.Module):
  """Five products by one matrix."""

  @nn.compact
  def __call__(self, x):
    own = self.param('own', nn.initializers.ones, (x.shape[-1],) * 2)
    return jax.lax.scan(lambda y, _: (y @ own, None), x, length=5)[0]


class _Unusual(nn.Module):
  """A layer that is called twice, a loop, and a product of its own."""

  @nn.compact
  def __call__(self, images, *, train):
    del train
    x = images.reshape(len(images), -1)
    layer = nn.Dense(x.shape[-1], use_bias=False, name='layer')
    x = _Loop(name='loop')(layer(layer(x)))
    own = self.param('own', nn.initializers.ones, (x.shape[-1],) * 2)
    return jax.jit(jnp.dot)(x, own @ own)


def test_loops_repeated_calls_and_products_outside_layers_count():
  table = summary.summarize(_Unusual(), (2, 2, 3))
  one = 2 * 12 * 12
  assert table.rows == [
    summary.Row((), '_Unusual', '12', 144, 0, one + 12 * one),
    summary.Row(('layer',), 'Dense', '12', 144, 0, 2 * one),
    summary.Row(('loop',), '_Loop', '12', 144, 0, 5 * one),
  ]


def test_nothing_is_compiled(caplog):
  message = 'Finished XLA compilation'
  with jax.log_compiles(), caplog.at_level(logging.WARNING):
    _summarize('WideResnet10x1')
    assert message not in caplog.text
    jax.jit(lambda x: x * 3)(1.0)
    assert message in caplog.text


@pytest.mark.parametrize(
  ('name', 'size'),
  [
    ('Resnet50', 224),
    ('efficientnet-b7', 600),
    ('PreactResnet18', 32),
    ('CifarResnet20', 32),
  ],
)
def test_the_default_size_is_what_the_model_is_made_for(name, size):
  model = models.create(name, num_classes=10)
  assert summary.default_size(name, model) == size


def _run(capsys, *arguments):
  status = cli.main(arguments)
  return status, *capsys.readouterr()


def test_what_the_model_itself_holds_has_a_line(capsys, monkeypatch):
  monkeypatch.setattr(models, 'create', lambda name, **kwargs: _Unusual())
  monkeypatch.setattr(models, 'options', lambda name: [])
  _, output, _ = _run(capsys, 'unusual', '--size', '2')
  assert '(the model itself)  _Unusual' in output


def test_without_a_name_the_known_ones_are_listed(capsys):
  status, output, errors = _run(capsys)
  assert (status, errors) == (0, '')
  assert output.splitlines() == models.names()


def test_the_table_prints_rows_and_totals(capsys):
  status, output, errors = _run(
    capsys, 'wide_resnet', '--set', 'depth=10', '--set', 'width=1'
  )
  assert (status, errors) == (0, '')
  lines = [line.split() for line in output.splitlines()]
  group = 2 * 2 * 9 * 16 * 16 * 32 * 32
  parameters = 2 * 9 * 16 * 16 + 4 * 16
  assert [
    'WideResnetGroup_0',
    '_Group',
    '32x32x16',
    f'{parameters:,}',
    '64',
    f'{group:,}',
  ] in lines
  flops = _wide_resnet_flops(10, 1, 32, 10, _all_taps)
  assert ['total', '75,290', '480', f'{flops:,}'] in lines
  assert 'parameters: 75,290 (0.3 MiB)' in output
  assert '0.024 GFLOP (= 0.012 G multiply-adds)' in output


def test_flags_reach_the_model_and_the_images(capsys):
  arguments = 'cnn --classes 7 --size 8 --channels 1 --set norm=batch'.split()
  status, output, _ = _run(capsys, *arguments, '--set', 'features=(4,)')
  assert status == 0
  expected = _summarize('cnn', 7, (8, 8, 1), features=(4,), norm='batch')
  total = f'{expected.parameters:,} {expected.statistics} {expected.flops:,}'
  assert f'total {total}' in ' '.join(output.split())
  assert '7 classes, images 8x8x1' in output
  _, deep, _ = _run(capsys, 'ShakeShake8_2x4d', '--size', '8', '--depth', '2')
  assert '\n  ShakeShakeBlock_0 ' in deep


def test_a_language_model_has_windows(capsys):
  arguments = 'gpt --classes 11 --set width=8 --set depth=1 --set heads=2'
  status, output, _ = _run(capsys, *arguments.split(), '--size', '6')
  assert status == 0
  assert 'gpt: 11 tokens, windows of 6\n' in output
  # Four matrices of a block, the tied embedding, and attention's two products.
  flops = 2 * 6 * (12 * 8 * 8 + 11 * 8 + 2 * 6 * 8)
  assert f' {flops:,}\n' in output


@pytest.mark.parametrize(
  'name',
  [
    'Pyramid_ShakeDrop_mini',
    pytest.param('efficientnet-b0', marks=pytest.mark.slow),
  ],
)
def test_the_table_is_readable_at_100_columns(capsys, name):
  _, output, _ = _run(capsys, name, '--depth', '2')
  lines = output.splitlines()
  assert max(map(len, lines)) <= 100
  table = lines[2 : lines.index('', 2)]
  # Every row ends under the end of its header.
  assert len({len(line.rstrip()) for line in table}) == 1


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ('WideResnet28', "unknown model 'WideResnet28'; known: "),
    ('WideResnet28x10 --size 30', 'multiples of 4, got [1, 30, 30, 3]'),
    ('WideResnet28x10 --size 0', '--size is 0; it must be at least 1'),
    ('WideResnet28x10 --size a', "argument --size: invalid int value: 'a'"),
    ('WideResnet28x10 --classes 0', '--classes is 0; it must be at least 1'),
    ('WideResnet28x10 --channels -1', '--channels is -1'),
    ('WideResnet28x10 --depth 0', '--depth is 0; it must be at least 1'),
    ('WideResnet28x10 other', 'unrecognized arguments: other; --help lists'),
    ('WideResnet28x10 --set remat', "--set is 'remat'; it must be key=value"),
    ('WideResnet28x10 --set rmat=1', "takes no argument 'rmat'; accepted: "),
    ('wide_resnet --set depth=a --set width=1', "depth is 'a'; it must be a"),
  ],
)
def test_what_is_wrong_is_one_line_and_status_2(capsys, arguments, message):
  status, output, errors = _run(capsys, *arguments.split())
  assert (status, output) == (2, '')
  assert errors.startswith('sam_jax.models: ')
  assert message in errors
  assert errors.count('\n') == 1


def test_the_library_refuses_a_depth_of_zero():
  with pytest.raises(ValueError, match='depth is 0; it must be at least 1'):
    _summarize('WideResnet10x1', depth=0)

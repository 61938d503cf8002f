"""The paper's experiments as sweeps: cells that can be run, its numbers."""

import functools
import math
import re
import statistics as stdlib_statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax import configs, datasets
from sam_jax.datasets import large, registry
from sam_jax.runs import build, validation, workdir as workdir_lib
from sam_jax.sweeps import (
  cells as cells_lib,
  results,
  smoke,
  sweep_files,
)
from tests import tiny

_FILES = {
  path.stem: path
  for path in sorted((tiny.ROOT / 'configs' / 'sweeps').glob('[a-z]*.py'))
}
# For a CPU: no cost in gradients, and other numbers of seeds.
_SMALL = {'digits_m', 'digits_noise', 'fashion_mnist_small'}
# Without numbers of the paper.
_OWN = _SMALL | {'rho_grid', 'spectrum'}
_EACH = pytest.mark.parametrize('name', _FILES)
_WRN = 'WideResnet28x10'


@functools.cache
def _load(name):
  return sweep_files.load(str(_FILES[name]), configs.find)


@functools.cache
def _kinds(name):
  """The first replica of every kind of cell, and its config."""
  sweep = _load(name)
  first = {}
  for cell in sweep.cells:
    kind = {k: v for k, v in cell.items() if k not in sweep.replicas}
    first.setdefault(cells_lib.cell_name(kind), cell)
  runs = tiny.ROOT / 'runs'
  return [(c, cells_lib.config(c, runs)) for c in first.values()]


# --- Every cell can be run ---------------------------------------------------

# Training and test examples, image shape, classes, validation examples.
_SETS = {
  'cifar10': (50_000, 10_000, (32, 32, 3), 10, 5_000),
  'cifar100': (50_000, 10_000, (32, 32, 3), 100, 5_000),
  'fashion_mnist': (60_000, 10_000, (28, 28, 1), 10, 6_000),
  'svhn_cropped': (604_388, 26_032, (32, 32, 3), 10, 7_328),
}


def _blank(size, shape):
  """Examples that take no memory for their images."""
  images = np.broadcast_to(np.uint8(0), (size, *shape))
  return datasets.Examples(images, np.zeros(size, np.int32))


def _source(name, directory, seed, **options):
  """A data set with the sizes of the real one and nothing in it."""
  del directory, seed
  if name in large.BY_NAME:
    facts, side = large.BY_NAME[name], options['image_size']
    train, test = (sum(s.values()) for s in (facts.train, facts.test))
    shape, num_classes, held = (side, side, 3), facts.num_classes, train // 10
  else:
    train, test, shape, num_classes, held = _SETS[name]
  constants = (0.5,) * shape[-1]
  return datasets.Source(
    _blank(train, shape),
    _blank(test, shape),
    num_classes,
    constants,
    constants,
    num_validation=held,
  )


@pytest.fixture
def no_files(monkeypatch):
  """Data sets without files, and models of which nothing is computed."""
  for name in (*_SETS, *large.BY_NAME):
    # With the options of the real one.
    loader = functools.wraps(registry._LOADERS[name])(
      functools.partial(_source, name)
    )
    monkeypatch.setitem(registry._LOADERS, name, loader)
  monkeypatch.setattr(build, 'init_shapes', _init_shapes)
  monkeypatch.setattr(validation, 'check_task', lambda task, outputs: None)
  tiny.use_devices(monkeypatch, 1)


def _init_shapes(task):
  """Shapes of another model: the real ones take a minute to trace."""
  del task
  params = {
    'kernel': jax.ShapeDtypeStruct((2, 3), jnp.float32),
    'bias': jax.ShapeDtypeStruct((3,), jnp.float32),
  }
  return None, {'params': params}


def _build(config):
  """Builds a run as its command line would: every field is taken."""
  return build.build(build.resolve(config, jax.device_count()))


@_EACH
@pytest.mark.usefixtures('no_files')
def test_every_cell_has_a_config_that_can_be_run(name):
  gradients = 0
  for cell, config in _kinds(name):
    experiment = _build(config)
    cost = experiment.fns.method.gradient_evaluations
    gradients += experiment.num_steps * cost * _num_replicas(name, cell)
  # What the docstring says that it costs, to its last digit.
  doc = re.search(
    r'([\d.]+)\s+(thousand|million)\s+gradient\s+evaluations', _doc(name)
  )
  if doc is None:
    assert name in _SMALL
    return
  unit = {'thousand': 1e3, 'million': 1e6}[doc[2]]
  digits = len(doc[1].partition('.')[2])
  assert float(doc[1]) == round(gradients / unit, digits)


@_EACH
@pytest.mark.usefixtures('no_files')
def test_every_cell_has_a_small_one_that_can_be_run(name):
  # Of cells that differ in numbers alone, the first.
  first = {}
  for cell, _ in _kinds(name):
    first.setdefault(
      re.sub(r'=[\d.e-]+', '', cells_lib.description(cell)), cell
    )
  cells = [need for cell in first.values() for need in cells_lib.needs(cell)]
  cells += [cell for cell in first.values() if cell not in cells]
  small = smoke.cells(_load(name), cells)
  cells_lib.check(cells_lib.Sweep(small))
  for cell in small:
    experiment = _build(cells_lib.config(cell, tiny.ROOT))
    assert experiment.num_steps == 3
    assert experiment.layout.batch_size <= 16


def _num_replicas(name, cell):
  sweep = _load(name)
  kind = lambda c: {k: v for k, v in c.items() if k not in sweep.replicas}
  return sum(kind(other) == kind(cell) for other in sweep.cells)


def _doc(name):
  return _FILES[name].read_text('utf-8').split('"""')[1]


@_EACH
def test_the_paper_s_batches_fit_on_8_devices(name):
  for _, config in _kinds(name):
    if config.batch_size % 256 == 0:
      resolved = build.resolve(config, 8)
      assert resolved.m == config.m
      assert resolved.microbatch_size == config.microbatch_size


@_EACH
def test_there_are_as_many_cells_as_a_file_says(name):
  text = _FILES[name].read_text('utf-8').split('def get_sweep')[1]
  terms = re.search(r'"""Returns (.*)\."""', text)[1]
  terms = re.split(r'\+|and', terms.replace('three', '3'))
  said = sum(math.prod(map(int, re.findall(r'\d+', term))) for term in terms)
  sweep = _load(name)
  assert len(sweep.cells) == said
  assert len({cells_lib.cell_name(cell) for cell in sweep.cells}) == said
  # All kinds have the same seeds, and nothing else is random.
  assert all('data.seed' not in cell for cell in sweep.cells)
  if name not in _SMALL:
    seeds = 20 if name == 'table11' else 5
    for cell, _ in _kinds(name):
      assert (cell['seed'], _num_replicas(name, cell)) == (0, seeds)


@_EACH
def test_a_file_says_how_it_is_run(name):
  text = _FILES[name].read_text('utf-8')
  assert re.search(rf'python -m sam_jax\.sweep --sweep={name}\s', text)
  assert name in _OWN or 'of the paper' in text.splitlines()[0]


def test_table_9_and_10_share_runs_with_tables_1_and_3():
  names = {
    name: {cells_lib.cell_name(cell) for cell in _load(name).cells}
    for name in ('table1', 'table3', 'table9', 'table10')
  }
  assert names['table10'] <= names['table3']
  # rho = 0.05 is table 6's for 4 rows of CIFAR-10 and 2 of CIFAR-100.
  assert len(names['table9'] & names['table1']) == 6 * 3 * 5


def test_weights_and_folders_are_where_the_user_says(monkeypatch):
  monkeypatch.setenv('SAM_JAX_CHECKPOINTS', '/w')
  monkeypatch.setenv('SAM_JAX_DATA', '/d')
  cells = sweep_files.load(str(_FILES['table3']), configs.find).cells
  assert {c['init_from'] for c in cells} == {
    '/w/randaug/efficientnet-b7-randaug',
    '/w/noisystudent/efficientnet-l2',
  }
  assert {c.get('data.directory') for c in cells} == {
    None,
    '/d/fgvc_aircraft',
    '/d/birdsnap',
  }


# --- Numbers of the paper ----------------------------------------------------


def _found(paper, config, workdir):
  """The numbers that the report puts beside a run, one of each metric."""
  workdir_lib.write_config(workdir, config)
  fields = results._fields(workdir)
  # The last of equal keys wins.
  return {p.metric: p for p in reversed(paper) if p.fits(fields)}


@pytest.mark.parametrize('name', sorted(set(_FILES) - _OWN))
def test_every_number_is_of_a_cell_and_every_test_cell_has_one(name, tmp_path):
  paper = _load(name).paper
  meant = set()
  for cell, config in _kinds(name):
    is_compared = config.data.split == 'test'
    if name == 'table8':
      is_compared = 'labels_from' in cell
    found = _found(paper, config, tmp_path)
    metrics = {number.metric for number in paper} if is_compared else set()
    assert found.keys() == metrics, cell
    meant |= {id(number) for number in found.values()}
  assert {id(number) for number in paper} == meant


def _numbers(name, *, metric='error_rate', **fields):
  """The paper's numbers with these fields (`__` is a dot)."""
  wanted = {k.replace('__', '.'): v for k, v in fields.items()}
  found = [
    (number.number, number.half_width)
    for number in _load(name).paper
    if number.metric == metric
    if all(number.fields.get(k) == v for k, v in wanted.items())
  ]
  return sorted(set(found))


def _cifar(data, model, epochs, augmentation, cutout):
  return {
    'data__name': data,
    'model__name': model,
    'num_epochs': epochs,
    'augmentation__name': augmentation,
    'augmentation__cutout_length': cutout,
  }


_DROP = 'Pyramid_ShakeDrop'
_SVHN = {'data__name': 'svhn_cropped', 'augmentation__name': 'aa-only'}
_FASHION = {
  'data__name': 'fashion_mnist',
  'augmentation__cutout_length': 16,
}
_SAM, _SGD = {'method.name': 'sam'}, {'method.name': 'sgd'}
_GSAM = {'method.name': 'gsam'}
_CARS = {'data__name': 'cars196', 'model__name': 'efficientnet-l2-475'}
_R50 = {'model__name': 'Resnet50', 'num_epochs': 100}
_R101 = {'model__name': 'Resnet101', 'num_epochs': 400}
_TOP5 = {'metric': 'top5_error_rate'}
_BOOT = {'labels_from': bool, 'data__label_noise': 0.8}


# Typed from the paper's tables a second time.
@pytest.mark.parametrize(
  ('name', 'fields', 'error', 'half_width'),
  [
    ('table1', _cifar('cifar10', _WRN, 200, 'basic', 0) | _SAM, 2.7, 0.1),
    ('table1', _cifar('cifar10', _WRN, 200, 'basic', 0) | _SGD, 3.5, 0.1),
    ('table1', _cifar('cifar10', _WRN, 400, 'basic', 0) | _SGD, 3.5, 0.1),
    ('table1', _cifar('cifar100', _WRN, 200, 'basic', 0) | _SAM, 16.5, 0.2),
    ('table1', _cifar('cifar100', _WRN, 3600, 'basic', 16) | _SGD, 17.4, 0.1),
    (
      'table1',
      _cifar('cifar10', _DROP, 1800, 'autoaugment', 0) | _SAM,
      1.4,
      0.1,
    ),
    (
      'table1',
      _cifar('cifar100', _DROP, 1800, 'autoaugment', 0) | _SAM,
      10.3,
      0.1,
    ),
    (
      'table9',
      _cifar('cifar100', 'PyramidNet272', 1800, 'basic', 0) | _SAM,
      15.4,
      None,
    ),
    ('table2', _R50 | _SAM, 22.5, 0.1),
    ('table2', _R101 | _SAM, 19.0, 0.01),
    ('table2', _R101 | _SGD, 22.3, 0.1),
    ('table2', _R50 | _SAM | _TOP5, 6.28, 0.08),
    ('table2', _R101 | _SGD | _TOP5, 6.41, 0.06),
    ('table3', _CARS | _SAM, 4.04, 0.03),
    ('table3', _CARS | _SGD, 4.93, 0.04),
    ('table3', _CARS | {'data__name': 'imagenet2012'} | _SAM, 11.39, 0.02),
    ('table10', {'data__name': 'fgvc_aircraft'} | _SAM, 7.06, None),
    ('table5', _SVHN | {'model__name': _WRN} | _SAM, 0.99, 0.01),
    ('table5', _FASHION | {'model__name': _WRN} | _SGD, 3.86, 0.14),
    # Accuracies of 79.9, 72.0 and 26.2 %.
    ('table4', _BOOT | _SAM, 20.1, None),
    ('table4', _BOOT | _SGD, 28.0, None),
    (
      'table4',
      {'data__label_noise': 0.8, 'mixing__name': 'none'} | _SGD,
      73.8,
      None,
    ),
    ('table8', {'data__label_noise': 0.8, 'method__rho': 0.05}, 21.0, None),
    (
      'table11',
      {'data__name': 'cifar10', 'method__ascent_steps': 3},
      2.73,
      None,
    ),
    ('m_sharpness', {'m': 4, 'method__rho': 0.04}, 4.26, None),
    ('norms', {'method__p': math.inf, 'method__rho': 5e-5}, 4.21, None),
    ('norms', {'method.name': 'random', 'method__rho': 15.0}, 4.39, None),
    ('second_order', {'method__second_order': True}, 3.33, None),
    # Accuracies of 74.6, 79.9 and 81.0 %, and of 77.4.
    ('transformers', {'model__name': 'ViT-B/16'} | _SGD, 25.4, None),
    ('transformers', {'model__name': 'ViT-B/16'} | _SAM, 20.1, None),
    ('transformers', {'model__name': 'ViT-B/16'} | _GSAM, 19.0, None),
    ('transformers', {'model__name': 'Mixer-B/16'} | _SAM, 22.6, None),
  ],
)
def test_numbers_are_those_of_the_paper(name, fields, error, half_width):
  assert _numbers(name, **fields) == [(error, half_width)]


# Sums of the columns of the paper's tables, top-5 errors included; those of
# tables 1 and 5 have SGD twice.
@pytest.mark.parametrize(
  ('name', 'total'),
  [
    ('table1', 787.5),
    ('table2', 373.0 + 99.29),
    ('table3', 211.76),
    ('table4', 371.9),
    ('table5', 63.85),
    ('table8', 1022.3),
    ('table9', 235.2),
    ('table10', 96.32),
    ('table11', 77.56),
    ('m_sharpness', 224.62),
    # Of GSAM, from its accuracies.
    ('transformers', 3 * 1200 - (852.9 + 902.2 + 919.0)),
  ],
)
def test_the_sum_of_a_table_is_right(name, total):
  assert sum(n.number for n in _load(name).paper) == pytest.approx(total)


def _without_method(number):
  """The fields of a number but those in which SAM and SGD differ."""
  fields = {
    k: v
    for k, v in number.fields.items()
    if k not in ('method.name', 'method.rho', 'num_epochs')
  }
  # Table 1 has two lengths of WideResNets, of which SGD's are twice as long.
  epochs = number.fields.get('num_epochs', 0)
  return repr(fields | {'long': epochs > 400})


@pytest.mark.parametrize(
  'name', ['table1', 'table2', 'table3', 'table5', 'table10']
)
def test_sam_is_ahead_of_sgd_but_in_one_cell(name):
  errors = {'sam': {}, 'sgd': {}}
  for number in _load(name).paper:
    key = _without_method(number) + number.metric
    if name == 'table2':
      key += str(number.fields['num_epochs'])
    errors[number.fields['method.name']][key] = number.number
  assert errors['sam'].keys() == errors['sgd'].keys()
  behind = [k for k, e in errors['sam'].items() if e >= errors['sgd'][k]]
  if name == 'table5':
    [key] = behind
    assert 'svhn' in key and 'ShakeShake' in key and 'aa-only' in key
  else:
    assert not behind


def test_under_label_noise_the_methods_are_in_the_paper_s_order():
  for noise in (0.2, 0.4, 0.6, 0.8):
    fields = {'data__label_noise': noise}
    found = [
      _numbers('table4', mixing__name='none', **_SGD, **fields),
      _numbers('table4', mixing__name='mixup', labels_from='', **fields),
      _numbers('table4', mixing__name='mixup', labels_from=bool, **fields),
      _numbers('table4', labels_from='', **_SAM, **fields),
      _numbers('table4', labels_from=bool, **_SAM, **fields),
    ]
    errors = [error for [(error, _)] in found]
    assert errors == sorted(errors, reverse=True)


def _best(name, field, **fields):
  """The value of a field whose number is lowest."""
  numbers = [
    n
    for n in _load(name).paper
    if all(n.fields.get(k.replace('__', '.')) == v for k, v in fields.items())
  ]
  return min(numbers, key=lambda n: n.number).fields[field]


def test_table_4_has_the_rho_that_is_best_in_table_8():
  tested = {
    (c.data.label_noise, c.method.rho)
    for cell, c in _kinds('table4')
    if cell['method.name'] == 'sam'
  }
  assert tested == {
    (noise, _best('table8', 'method.rho', data__label_noise=noise))
    for noise in (0.2, 0.4, 0.6, 0.8)
  }


def test_figures_have_their_minima_where_the_paper_has():
  best = [_best('m_sharpness', 'method.rho', m=m) for m in (1, 4, 16, 64, 256)]
  assert best == [0.03, 0.04, 0.05, 0.05, 0.075]
  assert _best('norms', 'method.rho', method__p=2.0) == 0.05
  assert _best('norms', 'method.rho', method__p=math.inf) == 5e-5
  assert _best('norms', 'method.rho', **{'method.name': 'random'}) == 15


def test_half_widths_are_narrow():
  widths = [
    number.half_width
    for name in _FILES
    for number in _load(name).paper
    if number.half_width is not None
  ]
  assert max(widths) == 0.4
  assert stdlib_statistics.median(widths) == 0.1

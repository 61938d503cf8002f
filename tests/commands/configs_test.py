"""The shipped configs: complete, and with the paper's settings."""

import pathlib
import re

import pytest

from sam_jax import datasets, models, tasks
from sam_jax.configs import (
  cifar10,
  cifar100,
  default,
  digits,
  fashion_mnist,
  finetune,
  gpt2,
  image_folder,
  imagenet,
  imagenet_vit,
  label_noise,
  svhn,
  text,
)
from sam_jax.training import layout

_FLAGS = (
  pathlib.Path(__file__).resolve().parents[2]
  / 'docs/migration/google_research_sam.md'
)
_WRN = 'WideResnet28x10'
_SS = 'ShakeShake26_2x96d'
_PYRAMID = 'PyramidNet272'
_SHAKEDROP = 'Pyramid_ShakeDrop'

# Model, epochs, learning rate, weight decay, rho: tables 6 and 7 of the paper,
# whose epochs are those of the text, or ours where it has none.
PAPER = {
  (cifar10, '200'): (_WRN, 200, 0.1, 5e-4, 0.05),
  (cifar10, '1800'): (_WRN, 1800, 0.05, 1e-3, 0.05),
  (cifar10, 'shake_shake'): (_SS, 1800, 0.02, 1e-3, 0.02),
  (cifar10, 'pyramidnet'): (_PYRAMID, 1800, 0.05, 5e-4, 0.05),
  (cifar10, 'shakedrop'): (_SHAKEDROP, 1800, 0.02, 5e-4, 0.05),
  (cifar100, '200'): (_WRN, 200, 0.1, 5e-4, 0.1),
  (cifar100, '1800'): (_WRN, 1800, 0.05, 1e-3, 0.1),
  (cifar100, 'shake_shake'): (_SS, 1800, 0.02, 1e-3, 0.05),
  (cifar100, 'pyramidnet'): (_PYRAMID, 1800, 0.05, 5e-4, 0.2),
  (cifar100, 'shakedrop'): (_SHAKEDROP, 1800, 0.05, 5e-4, 0.05),
  (fashion_mnist, 'wide_resnet'): (_WRN, 200, 0.1, 5e-4, 0.05),
  (fashion_mnist, 'shake_shake'): (_SS, 200, 0.1, 5e-4, 0.02),
  (svhn, 'wide_resnet'): (_WRN, 160, 0.01, 5e-4, 0.01),
  (svhn, 'shake_shake'): (_SS, 160, 0.01, 5e-4, 0.01),
}


@pytest.mark.parametrize(('module', 'row'), PAPER)
def test_a_config_has_the_settings_of_its_row(module, row):
  config = module.get_config(row)
  model, epochs, learning_rate, weight_decay, rho = PAPER[module, row]
  assert config.model.name == model
  assert config.num_epochs == epochs
  assert config.learning_rate == learning_rate
  assert config.weight_decay.rate == weight_decay
  assert config.method.rho == rho
  assert config.schedule.name == 'cosine'
  assert config.gradient_clipping == 5
  models.create(model, num_classes=10)


@pytest.mark.parametrize(('module', 'row'), PAPER)
def test_the_papers_batches_fit_on_1_to_8_devices(module, row):
  config = module.get_config(row)
  sizes = (config.batch_size, config.m, config.microbatch_size)
  assert sizes == (256, 32, 32)
  for devices in (1, 2, 4, 8):
    assert layout.create(sizes[0], devices, *sizes[1:]).num_groups == 8


@pytest.mark.parametrize('module', [cifar10, cifar100, fashion_mnist, svhn])
def test_the_first_row_is_the_default(module):
  assert module.get_config() == module.get_config(next(iter(module.ROWS)))


# Section 3.2 of the facts of the paper: batch, m, steps, learning rate.
@pytest.mark.parametrize(
  ('row', 'settings'),
  [('b7', (1024, 16, 5000, 0.016)), ('l2-475', (512, 4, 10000, 0.008))],
)
def test_fine_tuning_has_the_settings_of_the_paper(row, settings):
  config = finetune.get_config(row)
  assert settings == (
    config.batch_size,
    config.m,
    config.num_steps,
    config.learning_rate,
  )
  assert config.microbatch_size == config.m
  assert config.weight_decay.rate == 1e-5
  assert config.gradient_clipping == 1
  assert config.model.norm == 'frozen'
  model = models.create(config.model.name, num_classes=10)
  assert model.resolution == {'b7': 600, 'l2-475': 475}[row]


@pytest.mark.parametrize('row', ['b7', 'l2-475'])
@pytest.mark.parametrize(
  ('data', 'augmentation', 'padding', 'policy'),
  [
    ('cifar100', 'autoaugment', 4, 'cifar'),
    ('food101', 'basic', 0, 'imagenet'),
  ],
)
def test_fine_tuning_augments_as_the_paper_did(
  row, data, augmentation, padding, policy
):
  config = finetune.get_config(f'{row},{data}')
  assert config.data.name == data
  assert config.augmentation.name == augmentation
  assert config.augmentation.padding == padding
  assert config.augmentation.policy == policy


@pytest.mark.parametrize('row', ['b7', 'l2-475'])
def test_fine_tuning_on_imagenet_is_another_run(row):
  config = finetune.get_config(f'{row},imagenet2012')
  assert config.num_steps is None
  assert (config.num_epochs, config.learning_rate) == (10, 0.1)
  assert (config.label_smoothing, config.method.rho) == (0.1, 0.05)


@pytest.mark.parametrize(
  ('model', 'name'),
  [('wide', 'PreactResnet32_wide'), ('thin', 'CifarResnet32')],
)
def test_label_noise_has_the_settings_of_the_paper(model, name):
  config = label_noise.get_config(model)
  assert config.model.name == name
  assert (config.data.name, config.num_epochs) == ('cifar10', 200)
  assert (config.method.rho, config.data.label_noise) == (0.1, 0.2)
  models.create(name, num_classes=10)


# Table 2 and section 3.2 of the facts of the paper.
@pytest.mark.parametrize(
  ('row', 'model', 'epochs'),
  [('50', 'Resnet50', 100), ('101,400', 'Resnet101', 400)],
)
def test_imagenet_has_the_settings_of_the_paper(row, model, epochs):
  config = imagenet.get_config(row)
  sizes = (config.batch_size, config.m, config.microbatch_size)
  assert sizes == (4096, 128, 128)
  assert (config.model.name, config.num_epochs) == (model, epochs)
  assert (config.learning_rate, config.weight_decay.rate) == (1.0, 1e-4)
  assert (config.method.rho, config.label_smoothing) == (0.05, 0.1)
  assert config.augmentation.padding == 0


# GSAM's table 1 and the authors' config of ViT-B/32.
@pytest.mark.parametrize(
  ('row', 'settings'),
  [
    ('gsam', ('ViT-B/32', 300, 3e-3, 0.6, 0.1, 0.6)),
    ('gsam,ViT-S/16', ('ViT-S/16', 300, 3e-3, 0.6, 0.0, 1.0)),
    ('gsam,Mixer-B/16', ('Mixer-B/16', 300, 3e-3, 0.5, 0.2, 0.01)),
    ('gsam,Resnet152', ('Resnet152', 90, 1.6, 0.04, 0.02, 0.005)),
    ('sam,ViT-B/16', ('ViT-B/16', 300, 3e-3, 0.2, None, None)),
  ],
)
def test_transformers_have_the_settings_of_their_papers(row, settings):
  config = imagenet_vit.get_config(row)
  method = config.method
  assert settings == (
    config.model.name,
    config.num_epochs,
    config.learning_rate,
    method.rho,
    method.rho_min,
    method.alpha,
  )
  assert method.name == row.partition(',')[0]
  schedule = config.schedule
  assert (schedule.name, schedule.end_fraction) == ('linear', 0.01)
  is_resnet = 'Resnet' in row
  assert round(schedule.warmup_epochs * 312) == (5000 if is_resnet else 10_000)
  assert config.task.loss == (None if is_resnet else 'sigmoid')
  assert config.model.head_bias == (None if is_resnet else -10)
  options = {k: v for k, v in config.model.items() if v is not None}
  models.create(options.pop('name'), num_classes=1000, **options)


def test_the_cheap_recipe_has_the_settings_of_its_command():
  config = imagenet_vit.get_config('sassha')
  assert config.model.name == 'ViT-S/32'
  assert (config.batch_size, config.num_epochs) == (1024, 90)
  assert (config.learning_rate, config.weight_decay.rate) == (1e-3, 1e-4)
  assert (config.schedule.name, config.schedule.warmup_epochs) == ('cosine', 8)
  assert (config.method.rho, config.gradient_clipping) == (0.2, 1)


@pytest.mark.parametrize('row', ['gsam,ViT-B/8', 'sassha,ViT-B/32', 'adamw'])
def test_another_recipe_or_model_is_refused(row):
  with pytest.raises(ValueError, match=f'{row}.* is unknown; use'):
    imagenet_vit.get_config(row)


@pytest.mark.parametrize(
  ('config', 'policy'),
  [
    (imagenet, 'imagenet'),
    (imagenet_vit, 'imagenet'),
    (image_folder, 'imagenet'),
    (svhn, 'svhn'),
    (cifar10, 'cifar'),
    (cifar100, 'cifar'),
  ],
)
def test_autoaugment_is_that_of_the_data(config, policy):
  assert config.get_config().augmentation.policy == policy


@pytest.mark.parametrize('row', ['50,many', '34', '50,'])
def test_an_odd_length_is_refused_or_the_default(row):
  if row == '50,':
    assert imagenet.get_config(row) == imagenet.get_config('50')
  else:
    with pytest.raises(ValueError, match='use a depth of 50, 101, 152'):
      imagenet.get_config(row)


@pytest.mark.parametrize(
  'config', [imagenet, imagenet_vit, image_folder, finetune]
)
def test_the_data_of_a_config_are_known(config):
  assert config.get_config().data.name in datasets.names()


def test_the_data_of_all_rows_of_fine_tuning_are_known():
  """The command of the release refuses all but CIFAR and ImageNet."""
  rows = re.findall(r'^\| (\w+) +\| \d', finetune.__doc__, re.MULTILINE)
  assert len(rows) == 9
  for data in rows:
    assert finetune.get_config(f'b7,{data}').data.name == data
    assert data in datasets.names()


@pytest.mark.parametrize('variant', ['clean', 'noisy', 'vit'])
def test_the_digits_say_how_the_batch_is_cut(variant):
  config = digits.get_config(variant)
  assert config.batch_size == config.m == config.microbatch_size == 25
  assert config.data.label_noise == (0.4 if variant == 'noisy' else 0)


@pytest.mark.parametrize(
  'module',
  [
    cifar10,
    cifar100,
    digits,
    fashion_mnist,
    finetune,
    gpt2,
    imagenet,
    imagenet_vit,
    label_noise,
    svhn,
    text,
  ],
)
def test_an_unknown_argument_is_refused(module):
  with pytest.raises(ValueError, match="hundred'?.* is unknown; use "):
    module.get_config('hundred')


@pytest.mark.parametrize('argument', [*text.TEXTS, *gpt2.MODELS])
def test_language_models_have_the_recipe_of_their_source(argument):
  module = text if argument in text.TEXTS else gpt2
  config = module.get_config(argument)
  assert module.get_config() == module.get_config(
    {text: 'python_manual', gpt2: 'gpt2'}[module]
  )
  assert config.optimizer.name == 'adamw'
  assert config.weight_decay.to_dict() == {
    'rate': 0.1,
    'place': 'decoupled',
    'exclude': '(scale|bias)$',
  }
  assert (config.gradient_clipping, config.schedule.end_fraction) == (1, 0.1)
  assert tasks.get(config.task.name) is tasks.LanguageModelling
  assert config.data.name in datasets.text.names()
  layout.create(config.batch_size, 1, config.m, config.microbatch_size)
  options = {k: v for k, v in config.model.items() if v is not None}
  options |= {'context_length': config.data.context_length}
  assert models.create(num_classes=50_257, **options).depth >= 5


def test_gpt2_has_the_numbers_of_nanogpt():
  config = gpt2.get_config()
  assert (config.batch_size, config.data.context_length) == (480, 1024)
  assert (config.num_steps, config.schedule.warmup_steps) == (600_000, 2000)
  assert config.learning_rate == 6e-4
  assert (config.optimizer.b1, config.optimizer.b2) == (0.9, 0.95)


def test_the_fields_that_the_docs_map_official_flags_to_exist():
  table = _FLAGS.read_text('utf-8').split('## Official flags')[1]
  rows = [line.split(' | ') for line in table.splitlines() if '` |' in line]
  named = re.findall(
    r'`([a-z_]+(?:\.[a-z_]+)*)[`=]', ' '.join(r[1] for r in rows)
  )
  config = default.get_config()
  values = {'test', 'validation', 'none', 'basic', 'sam', 'sgd', 'rmsprop_tf'}
  values |= {'frozen', 'loss', 'autoaugment', 'randaugment', 'mixcut'}
  assert len(rows) >= 20
  for name in set(named) - values:
    field = config
    for part in name.split('.'):
      field = field[part]

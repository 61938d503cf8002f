"""The shipped configs: complete, and with the paper's settings."""

import pathlib
import re

import pytest

from configs import cifar10, cifar100, default, digits, fashion_mnist, svhn
from sam_jax import layout

_README = pathlib.Path(__file__).resolve().parents[1] / 'README.md'

# Epochs, learning rate, weight decay, rho: tables 6 and 7 of the paper, whose
# epochs are those of the text, or ours where it has none.
PAPER = {
  'cifar10': (cifar10.get_config(), 200, 0.1, 5e-4, 0.05),
  'cifar10:1800': (cifar10.get_config('1800'), 1800, 0.05, 1e-3, 0.05),
  'cifar100': (cifar100.get_config(), 200, 0.1, 5e-4, 0.1),
  'cifar100:1800': (cifar100.get_config('1800'), 1800, 0.05, 1e-3, 0.1),
  'fashion_mnist': (fashion_mnist.get_config(), 200, 0.1, 5e-4, 0.05),
  'svhn': (svhn.get_config(), 160, 0.01, 5e-4, 0.01),
}


@pytest.mark.parametrize('name', PAPER)
def test_a_config_has_the_settings_of_its_row(name):
  config, epochs, learning_rate, weight_decay, rho = PAPER[name]
  assert config.num_epochs == epochs
  assert config.learning_rate == learning_rate
  assert config.weight_decay.rate == weight_decay
  assert config.sam.rho == rho
  assert config.model.name == 'WideResnet28x10'
  assert config.schedule.name == 'cosine'
  assert config.gradient_clipping == 5


@pytest.mark.parametrize('name', PAPER)
def test_the_papers_batches_fit_on_1_to_8_devices(name):
  config = PAPER[name][0]
  sizes = (config.batch_size, config.sam.m, config.microbatch_size)
  assert sizes == (256, 32, 32)
  for devices in (1, 2, 4, 8):
    assert layout.create(sizes[0], devices, *sizes[1:]).num_groups == 8


@pytest.mark.parametrize('variant', ['clean', 'noisy'])
def test_the_digits_say_how_the_batch_is_cut(variant):
  config = digits.get_config(variant)
  assert config.batch_size == config.sam.m == config.microbatch_size == 25
  assert config.data.label_noise == (0.4 if variant == 'noisy' else 0)


@pytest.mark.parametrize('module', [cifar10, cifar100, digits])
def test_an_unknown_argument_is_refused(module):
  with pytest.raises(ValueError, match='hundred is unknown'):
    module.get_config('hundred')


def test_the_fields_that_the_readme_maps_official_flags_to_exist():
  table = _README.read_text('utf-8').split('## Official flags')[1]
  rows = [line.split(' | ') for line in table.splitlines() if '` |' in line]
  named = re.findall(
    r'`([a-z_]+(?:\.[a-z_]+)*)[`=]', ' '.join(r[1] for r in rows)
  )
  config = default.get_config()
  values = {'test', 'validation', 'none', 'basic', 'sam', 'sgd', 'rmsprop_tf'}
  values |= {'loss'}
  assert len(rows) >= 20
  for name in set(named) - values:
    field = config
    for part in name.split('.'):
      field = field[part]

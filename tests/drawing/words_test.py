"""What pictures say in place of the names of fields."""

import pytest

from sam_jax.drawing import words


@pytest.mark.parametrize(
  ('field', 'value', 'text'),
  [
    ('method.name', 'sam', 'sam'),
    ('method.rho', 0.05, 'rho = 0.05'),
    ('method.second_order', True, 'second order'),
    ('method.second_order', False, 'no second order'),
    ('m', 4, 'm = 4'),
    ('data.label_noise', 0.4, '40 % label noise'),
    ('data.label_noise', 0.0, '0 % label noise'),
    ('data.split', 'train', 'training split'),
    ('num_epochs', 200, '200 epochs'),
    ('optimizer.weight_decay', 5e-4, 'optimizer weight decay = 0.0005'),
    ('schedule.name', 'cosine', 'cosine schedule'),
    ('augmentation.name', 'none', ''),
    ('mixing.alpha', None, ''),
    ('labels_from', 'same', 'labels from = same'),
  ],
)
def test_a_field_is_said_in_words(field, value, text):
  assert words.fields({field: value}) == text


def test_a_title_has_what_all_runs_have_in_common():
  runs = [
    {'data.name': 'digits', 'data.label_noise': 0.4, 'model.name': name}
    for name in ('cnn', 'vit')
  ]
  assert words.title(runs, 'test error') == (
    'digits, 40 % label noise: test error'
  )
  assert words.title(runs[:1], 'x') == 'digits, cnn, 40 % label noise: x'
  assert words.title([], 'test error') == 'Test error'


@pytest.mark.parametrize(
  ('counts', 'text'),
  [
    ([1, 1], 'one seed each'),
    ([3], 'mean and 95 % confidence interval over 3 seeds'),
    ([5, 2], 'mean and 95 % confidence interval over 2 to 5 seeds'),
  ],
)
def test_the_seeds_are_said(counts, text):
  assert words.seeds(counts) == text

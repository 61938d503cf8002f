import pytest

from sam_jax.training import layout

# B, m, b, devices: groups in turn per device, devices per group, microbatches
# per device and group. The table of the README and the paper's configurations.
LAYOUTS = (
  (256, 32, 32, 1, 8, 1, 1),
  (256, 32, 32, 2, 4, 1, 1),
  (256, 32, 32, 8, 1, 1, 1),
  (256, 256, 32, 1, 1, 1, 8),
  (256, 256, 32, 2, 1, 2, 4),
  (256, 256, 32, 8, 1, 8, 1),
  (256, 32, 8, 1, 8, 1, 4),
  (256, 32, 8, 2, 4, 1, 4),
  (256, 32, 8, 8, 1, 1, 4),
  (256, 32, 8, 16, 1, 2, 2),
  (4096, 128, 128, 8, 4, 1, 1),
  (512, 4, 4, 8, 16, 1, 1),
  (96, 16, 8, 3, 2, 1, 2),
)


@pytest.mark.parametrize(
  'batch_size, m, b, devices, in_turn, members, microbatches', LAYOUTS
)
def test_a_batch_is_cut_into_groups_and_microbatches(
  batch_size, m, b, devices, in_turn, members, microbatches
):
  made = layout.create(batch_size, devices, m, b)
  assert made.device_groups == in_turn
  assert made.member_axis == members
  assert made.device_microbatches == microbatches
  assert made.group_axis * made.member_axis == devices
  assert made.num_groups == made.group_axis * in_turn
  assert devices * in_turn * microbatches * b == batch_size


@pytest.mark.parametrize(
  'batch_size, m, b, devices, allowed',
  [
    (256, 32, 32, 16, [1, 2, 4, 8]),
    (256, 256, 32, 16, [1, 2, 4, 8]),
    (256, 32, 32, 64, [1, 2, 4, 8]),
    (96, 32, 8, 2, [1, 3, 6, 12]),  # 3 groups on 2 devices
    (96, 16, 8, 4, [1, 2, 3, 6, 12]),
  ],
)
def test_device_counts_that_do_not_fit_are_refused_with_those_that_do(
  batch_size, m, b, devices, allowed
):
  with pytest.raises(ValueError) as error:
    layout.create(batch_size, devices, m, b)
  assert f'one of {allowed} devices' in str(error.value)
  assert '\n' not in str(error.value)
  for count in range(1, batch_size + 1):
    if count in allowed:
      layout.create(batch_size, count, m, b)
    else:
      with pytest.raises(ValueError):
        layout.create(batch_size, count, m, b)


@pytest.mark.parametrize(
  'sizes, message',
  [
    ((256, 3, 32, 32), r'256 .* 3 devices; .* multiple of 3, or one of \[1, 2'),
    ((256, 2, 48, 16), r'm 48 .* 256; .* one of \[1, 2, 4, 8, 16, 32, 64'),
    (
      (256, 2, 32, 24),
      r'size 24 .* m 32; .* one of \[1, 2, 4, 8, 16, 32\]',
    ),
    ((256, 2, 32, 64), r'size 64 does not divide m 32'),
    (
      (256, 16, 32, 32),
      r'16 examples each.* \[1, 2, 4, 8, 16\] \(this changes',
    ),
    ((0, 1, 1, 1), 'batch_size is 0; it must be at least 1'),
    ((8, 1, 0, 1), 'm is 0; it must be at least 1'),
    ((8, 1, 8, -2), 'microbatch_size is -2; it must be at least 1'),
  ],
)
def test_sizes_that_do_not_fit_are_refused_with_those_that_do(sizes, message):
  with pytest.raises(ValueError, match=message):
    layout.create(*sizes)


@pytest.mark.parametrize(
  'examples, devices, sizes, expected',
  [
    (40, 1, (256, 32, 32), (16, 16, 16)),
    (200, 8, (256, 32, 32), (64, 32, 8)),
    (100, 6, (256, 32, 32), (48, 24, 8)),
    (3, 1, (256, 32, 32), (1, 1, 1)),
    (3, 8, (256, 32, 32), None),
    # m or b alone is what does not fit.
    (1000, 1, (25, 32, 32), (25, 25, 25)),
    (1000, 1, (16, 4, 32), (16, 4, 4)),
    (1000, 1, (48, 32, 32), (32, 32, 32)),
    (1000, 8, (12, None, None), (8, 1, 1)),
    (100, 8, (256, 128, 128, 4), (32, 16, 16)),
  ],
)
def test_sizes_that_fit_together_are_found(examples, devices, sizes, expected):
  found = layout.fitting(examples, devices, *sizes)
  assert expected == (
    found and (found.batch_size, found.m, found.microbatch_size)
  )


@pytest.mark.parametrize(
  'devices, m, b, expected',
  [
    (4, None, None, (64, 64)),
    (8, 128, None, (128, 32)),
    (1, 32, None, (32, 32)),
    (4, None, 16, (64, 16)),
  ],
)
def test_what_is_unset_becomes_the_batch_per_device(devices, m, b, expected):
  made = layout.create(256, devices, m, b)
  assert (made.m, made.microbatch_size) == expected


@pytest.mark.parametrize(
  ('sizes', 'said'),
  [
    ((1, 1), 'one device, one perturbation per step from one example'),
    (
      (16, 4, 2, 1),
      '4 devices, 8 perturbations per step, each from m = 2 of the 16 '
      'examples, 2 of them in turn on each device, in 2 passes of one example '
      'one after the other',
    ),
  ],
)
def test_one_is_said_in_words(sizes, said):
  assert layout.create(*sizes).describe() == said


def test_a_layout_describes_itself_and_what_m_is():
  """Elsewhere m is the batch per device, and nothing says so."""
  alone = layout.create(256, 2, 32, 8).describe()
  assert '2 devices, 8 perturbations per step, each from m = 32' in alone
  assert '4 of them in turn on each device' in alone
  assert 'in 4 passes of 8 examples' in alone
  shared = layout.create(256, 16, 32, 8).describe()
  assert 'computed by 2 devices together, in 2 passes' in shared
  cut = layout.create(256, 4, 32, 8, fsdp=2).describe()
  assert 'by 2 devices together, which share one copy of the para' in cut
  assert '4 of them in turn on each such set of devices' in cut

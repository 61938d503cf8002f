"""Where the examples of a batch go: groups, microbatches, devices.

m, the number of examples that share one perturbation, belongs to the algorithm
(Foret et al. 2020, section 4.1), and so does the number of examples that one
BatchNorm sees. The number of devices does not: a layout computes the same run
on any device count that it admits.
"""

import contextlib
import dataclasses
import math
from collections.abc import Sequence

_MAX_SIZE = 2**31 - 1  # positions in a batch are int32
_MAX_LISTED = 24  # numbers in a message


@dataclasses.dataclass(frozen=True)
class Layout:
  """How a batch is cut. Make one with `create`, which checks that it fits.

  Attributes:
    batch_size: B, examples per step over all devices.
    m: examples that share one perturbation (one group).
    microbatch_size: b, examples per forward pass, hence per BatchNorm.
    num_devices: over which the batch is spread.
    fsdp: devices that share one copy of the parameters, and work on the same
      group; 1 has a copy on each device.
  """

  batch_size: int
  m: int
  microbatch_size: int
  num_devices: int
  fsdp: int = 1

  @property
  def num_groups(self) -> int:
    """Perturbations per step."""
    return self.batch_size // self.m

  @property
  def group_axis(self) -> int:
    """Number of sets of devices that work on different groups."""
    return min(self.num_groups, self.num_devices // self.fsdp)

  @property
  def member_axis(self) -> int:
    """Number of devices that share a group, each with a part for itself."""
    return self.num_devices // self.fsdp // self.group_axis

  @property
  def device_groups(self) -> int:
    """Groups that a device walks in turn."""
    return self.num_groups // self.group_axis

  @property
  def device_microbatches(self) -> int:
    """Microbatches of one group on one device."""
    return self.m // (self.member_axis * self.microbatch_size)

  def describe(self) -> str:
    """Returns one line for a person, see `create`."""
    parts = [_counted(self.num_devices, 'device')]
    if self.num_groups == 1:
      whole = _counted(self.batch_size, 'example')
      every = 'all ' if self.batch_size > 1 else ''
      parts.append(f'one perturbation per step from {every}{whole}')
    else:
      parts += [
        f'{self.num_groups} perturbations per step',
        f'each from m = {self.m} of the {self.batch_size} examples',
      ]
    parts += self._sharing()
    if self.device_microbatches > 1:
      parts.append(
        f'in {self.device_microbatches} passes of '
        f'{_counted(self.microbatch_size, "example")} one after the other'
      )
    return ', '.join(parts)

  def _sharing(self) -> list[str]:
    """Returns which devices do what."""
    together = self.member_axis * self.fsdp
    parts = []
    if together > 1:
      parts.append(f'computed by {together} devices together')
      if self.fsdp > 1:
        parts[0] += ', which share one copy of the parameters'
    if self.device_groups > 1 and self.num_devices > together:
      where = 'such set of devices' if together > 1 else 'device'
      parts.append(f'{self.device_groups} of them in turn on each {where}')
    return parts


def create(
  batch_size: int,
  num_devices: int,
  m: int | None = None,
  microbatch_size: int | None = None,
  fsdp: int = 1,
) -> Layout:
  """Returns the layout of a batch over devices.

  Args:
    batch_size: B, examples per step over all devices.
    num_devices: D. It must divide B / b, and divide B / m or be a multiple.
    m: examples per perturbation; None is B / D, what the official release does,
      or with fsdp B fsdp / D.
    microbatch_size: b, examples per forward pass; None is the smaller of m and
      B / D, or with fsdp m.
    fsdp: devices that share one copy of the parameters, and work on one group
      at a time, each on its share of every microbatch. It must divide D and b,
      and D / fsdp must divide B / m.

  Raises:
    ValueError: the sizes do not fit; the message says which would.

  Example:
    >>> from sam_jax.training import layout
    >>> print(layout.create(25, 1).describe())
    one device, one perturbation per step from all 25 examples
    >>> print(layout.create(256, 2, m=32, microbatch_size=8).describe())
    2 devices, 8 perturbations per step, each from m = 32 of the 256 examples, \
4 of them in turn on each device, in 4 passes of 8 examples one after the other
    >>> print(layout.create(256, 8, m=128, fsdp=4).describe())
    8 devices, 2 perturbations per step, each from m = 128 of the 256 \
examples, computed by 4 devices together, which share one copy of the parameters
  """
  _check_positive(
    batch_size=batch_size, m=m, microbatch_size=microbatch_size, fsdp=fsdp
  )
  if fsdp > 1:
    return _create_sharded(batch_size, num_devices, m, microbatch_size, fsdp)
  if batch_size % num_devices:
    fitting = _device_counts(batch_size, m or 1, microbatch_size or 1)
    raise ValueError(
      f'batch_size {batch_size} is not divisible by {num_devices} devices; '
      f'use a multiple of {num_devices}, or one of {_listed(fitting)} devices'
    )
  per_device = batch_size // num_devices
  m = per_device if m is None else m
  b = min(m, per_device) if microbatch_size is None else microbatch_size
  if batch_size % m:
    raise ValueError(
      f'm {m} does not divide batch_size {batch_size}; m may be one '
      f'of {_listed(_divisors(batch_size))}'
    )
  if m % b:
    raise ValueError(
      f'microbatch_size {b} does not divide m {m}; it may be one of '
      f'{_listed(_divisors(m))}'
    )
  _check_devices(batch_size, m, b, num_devices)
  return Layout(batch_size, m, b, num_devices)


def fitting(
  num_examples: int,
  num_devices: int,
  batch_size: int,
  m: int | None = None,
  microbatch_size: int | None = None,
  fsdp: int = 1,
) -> Layout | None:
  """Returns the largest layout for few examples, none of its sizes larger.

  B stays as it is if there are as many examples and m divides it, or is no
  smaller. Else it is a power of two times the number of devices, and an epoch
  has two steps or more, if there are two examples for each device.

  Args:
    num_examples: there are to train on.
    num_devices: see `create`.
    batch_size: B that is wanted; the other sizes are m and b, see `create`.
    m: likewise.
    microbatch_size: likewise.
    fsdp: see `create`.

  Returns:
    None if there is no such layout.

  Example:
    >>> from sam_jax.training import layout
    >>> small = layout.fitting(40, 1, 256, m=32, microbatch_size=32)
    >>> small.batch_size, small.m, small.microbatch_size
    (16, 16, 16)
  """
  most = min(max(num_examples // 2, num_devices), num_examples, batch_size)
  doublings = range((most // num_devices).bit_length() - 1, -1, -1)
  sizes = [num_devices << n for n in doublings]
  is_cut = m is not None and m < batch_size and batch_size % max(m, 1)
  if batch_size <= num_examples and not is_cut:
    sizes = [batch_size, *sizes]
  for size in sizes:
    for group in _divisors_up_to(size, m or size * fsdp // num_devices):
      for piece in _divisors_up_to(group, microbatch_size):
        with contextlib.suppress(ValueError):
          return create(size, num_devices, group, piece, fsdp)
  return None


def _divisors_up_to(n: int, limit: int | None) -> list[int]:
  """Returns the divisors of n that are no larger than a limit, descending."""
  return [d for d in reversed(_divisors(n)) if limit is None or d <= limit]


def _create_sharded(
  batch_size: int, num_devices: int, m: int | None, b: int | None, fsdp: int
) -> Layout:
  """Returns the layout for sets of devices that share their parameters.

  Each set walks whole groups in turn, as a single device does.
  """
  if num_devices % fsdp:
    raise ValueError(
      f'fsdp {fsdp} does not divide {num_devices} devices; it may be one of '
      f'{_listed(_divisors(num_devices))}'
    )
  sets = num_devices // fsdp
  try:
    made = create(batch_size, sets, m, 1)
    if made.member_axis == 1:
      made = create(batch_size, sets, m, b)
  except ValueError as error:
    raise ValueError(
      f'with fsdp {fsdp}, {fsdp} devices count as one: {error}'
    ) from None
  if made.member_axis > 1:
    groups = made.num_groups
    fsdps = [
      n for n in _divisors(num_devices) if groups % (num_devices // n) == 0
    ]
    ms = _divisors(batch_size // sets)
    raise ValueError(
      f'{_counted(groups, "perturbation")} per step (batch_size {batch_size} / '
      f'm {made.m}) cannot be spread over {sets} sets of {fsdp} devices; fsdp '
      f'may be one of {_listed(fsdps)}, or m one of {_listed(ms)}'
    )
  if made.microbatch_size % fsdp:
    raise ValueError(
      f'fsdp {fsdp} does not divide microbatch_size {made.microbatch_size}, '
      'whose examples are spread over so many devices; it may be one of '
      f'{_listed(_divisors(math.gcd(num_devices, made.microbatch_size)))}'
    )
  return dataclasses.replace(made, num_devices=num_devices, fsdp=fsdp)


def _counted(count: int, noun: str) -> str:
  """Returns a number of things in words."""
  return f'one {noun}' if count == 1 else f'{count} {noun}s'


def _check_positive(**sizes: int | None) -> None:
  """Refuses sizes below one, and those that no position can count."""
  for name, size in sizes.items():
    if size is not None and size < 1:
      raise ValueError(f'{name} is {size}; it must be at least 1')
    if size is not None and size > _MAX_SIZE:
      raise ValueError(f'{name} is {size}; it must be at most {_MAX_SIZE}')


def _check_devices(batch_size: int, m: int, b: int, num_devices: int) -> None:
  """Refuses a number of devices over which the batch cannot be spread."""
  groups = batch_size // m
  allowed = _device_counts(batch_size, m, b)
  if num_devices in allowed:
    return
  per_device = batch_size // num_devices
  if per_device % b:
    raise ValueError(
      f'{num_devices} devices leave {per_device} examples each, which is no '
      f'multiple of microbatch_size {b}; use one of {_listed(allowed)} '
      f'devices, or a microbatch_size of {_listed(_divisors(per_device))} '
      '(this changes BatchNorm)'
    )
  raise ValueError(
    f'{groups} perturbations (batch_size {batch_size} / m {m}) cannot be '
    f'spread evenly over {num_devices} devices; use one of {_listed(allowed)} '
    'devices'
  )


def _device_counts(batch_size: int, m: int, b: int) -> list[int]:
  """Returns the numbers of devices over which groups and microbatches fit."""
  groups = batch_size // m
  return [
    d for d in _divisors(batch_size // b) if groups % d == 0 or d % groups == 0
  ]


def _divisors(n: int) -> list[int]:
  """Returns the divisors of n, ascending."""
  small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
  return sorted({*small, *(n // d for d in small)})


def _listed(numbers: Sequence[int]) -> str:
  """Returns numbers for a message, not all if they are many."""
  if len(numbers) <= _MAX_LISTED:
    return str(list(numbers))
  return f'[{", ".join(map(str, numbers[:_MAX_LISTED]))}, ...]'

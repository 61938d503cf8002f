"""A training step in PyTorch, as users of SAM write it, with our recipes.

Each step does the work of ours: images are cropped and flipped on the device;
SAM differentiates twice, and BatchNorm statistics are those of the first pass;
the weight decay of SGD is a penalty in both losses; the gradient is clipped
before the optimizer. What ours measures besides (error rate, norms) is left
out: a loop in PyTorch does not.
"""

import contextlib
import dataclasses
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import attention, functional as F
from torch.utils import flop_counter

PASSES = {'sgd': 1, 'sam': 2}
_TINY = 1e-12  # a gradient of zeros has no direction, and perturbs nothing


@dataclasses.dataclass(frozen=True)
class Recipe:
  """What makes an update of a gradient.

  Attributes:
    optimizer: 'sgd', with Nesterov's momentum, or 'adamw'.
    learning_rate: stays as it is.
    weight_decay: of 'sgd' a penalty in both losses, for all parameters; of
      'adamw' decoupled, for all but biases and the scales of norms.
    max_norm: global norm to which the gradient is clipped.
    rho: radius of SAM's perturbation.
  """

  optimizer: str
  learning_rate: float
  weight_decay: float
  max_norm: float
  rho: float = 0.05

  @property
  def penalty(self) -> float:
    """The factor of the parameters that each gradient has in it."""
    return self.weight_decay if self.optimizer == 'sgd' else 0.0

  def create(self, params: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Returns the optimizer, in its fastest implementation."""
    options = {'lr': self.learning_rate, 'fused': True}
    if self.optimizer == 'sgd':
      return torch.optim.SGD(params, momentum=0.9, nesterov=True, **options)
    groups = [
      {'params': [p for p in params if p.ndim > 1]},
      {'params': [p for p in params if p.ndim == 1], 'weight_decay': 0.0},
    ]
    decay = self.weight_decay
    return torch.optim.AdamW(groups, weight_decay=decay, **options)


# Those of scripts/benchmark_step.py, but for the schedule.
RECIPES = {
  'sgd': Recipe('sgd', 0.1, weight_decay=5e-4, max_norm=5.0),
  'adamw': Recipe('adamw', 1e-3, weight_decay=0.1, max_norm=1.0),
}


@dataclasses.dataclass(frozen=True)
class Precision:
  """How a network computes.

  Attributes:
    compute_dtype: of activations; below float32 by autocast. Parameters are
      float32.
    memory_format: of images and of the parameters of convolutions.
    is_compiled: whether by `torch.compile`: the network and its loss, forward
      and backward.
  """

  compute_dtype: torch.dtype = torch.float32
  memory_format: torch.memory_format = torch.contiguous_format
  is_compiled: bool = False


class Trainer:
  """A network that is trained, by SGD's or SAM's gradient.

  Attributes:
    network: the module.
    params: its parameters.
  """

  def __init__(
    self,
    network: nn.Module,
    recipe: Recipe,
    *,
    method: str = 'sam',
    m: int,
    microbatch_size: int,
    precision: Precision = Precision(),  # noqa: B008 (frozen)
  ):
    """Takes a network, on its device.

    Args:
      network: moved to the memory format in place.
      recipe: from a gradient to an update.
      method: 'sgd' or 'sam'.
      m: examples that share a perturbation; it divides the batch.
      microbatch_size: examples of a forward pass; it divides m.
      precision: how the network computes.
    """
    self.network = network.to(memory_format=precision.memory_format).train()
    self.params = list(network.parameters())
    self._norms = [
      x for x in network.modules() if isinstance(x, nn.BatchNorm2d)
    ]
    self._recipe = recipe
    self._optimizer = recipe.create(self.params)
    self._gradient = {'sgd': self._plain_gradient, 'sam': self._sam_gradient}[
      method
    ]
    self._m = m
    self._microbatch_size = microbatch_size
    self._precision = precision
    self._loss = (
      torch.compile(self.loss) if precision.is_compiled else self.loss
    )

  def step(self, batch: tuple[torch.Tensor, ...]) -> None:
    """Makes an update from images and labels, or from windows of tokens."""
    self.update(*self.prepare(*batch))

  def prepare(
    self, examples: torch.Tensor, labels: torch.Tensor | None = None
  ) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns what the network takes, and the classes that it is to find."""
    if labels is None:
      return examples[:, :-1], examples[:, 1:]
    images = (flip_and_crop(examples).float() - 127.5) * (1 / 127.5)
    images = images.permute(0, 3, 1, 2)
    return images.contiguous(
      memory_format=self._precision.memory_format
    ), labels

  def loss(self, inputs: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Returns the mean cross entropy."""
    dtype = self._precision.compute_dtype
    with torch.autocast(
      inputs.device.type, dtype, enabled=dtype != torch.float32
    ):
      logits = self.network(inputs)
    return F.cross_entropy(logits.flatten(0, -2).float(), classes.flatten())

  def update(self, inputs: torch.Tensor, classes: torch.Tensor) -> None:
    """Makes an update of the mean of the groups' gradients."""
    groups = list(
      zip(inputs.split(self._m), classes.split(self._m), strict=True)
    )
    total = self._gradient(*groups[0])
    for group in groups[1:]:
      torch._foreach_add_(total, self._gradient(*group))
    if len(groups) > 1:
      torch._foreach_div_(total, len(groups))
    for param, grad in zip(self.params, total, strict=True):
      param.grad = grad
    nn.utils.clip_grad_norm_(self.params, self._recipe.max_norm)
    self._optimizer.step()

  def _sam_gradient(
    self, inputs: torch.Tensor, classes: torch.Tensor
  ) -> list[torch.Tensor]:
    """Returns the gradient uphill of where the parameters are."""
    epsilon = self._plain_gradient(inputs, classes)
    norm = nn.utils.get_total_norm(epsilon)
    torch._foreach_mul_(epsilon, self._recipe.rho / (norm + _TINY))
    with torch.no_grad():
      torch._foreach_add_(self.params, epsilon)
    with self._without_statistics():
      grads = self._plain_gradient(inputs, classes)
    with torch.no_grad():
      torch._foreach_sub_(self.params, epsilon)
    return grads

  def _plain_gradient(
    self, inputs: torch.Tensor, classes: torch.Tensor
  ) -> list[torch.Tensor]:
    """Returns the gradient of the loss of a group, and of its penalty."""
    self._optimizer.zero_grad(set_to_none=True)
    share = self._microbatch_size / len(inputs)
    for piece in zip(
      inputs.split(self._microbatch_size),
      classes.split(self._microbatch_size),
      strict=True,
    ):
      (self._loss(*piece) * share).backward()
    grads = [param.grad for param in self.params]
    if self._recipe.penalty:
      with torch.no_grad():
        torch._foreach_add_(grads, self.params, alpha=self._recipe.penalty)
    return grads

  @contextlib.contextmanager
  def _without_statistics(self) -> Iterator[None]:
    """Has BatchNorm leave its running statistics alone.

    A flag and not a momentum of 0: `torch.compile` would take that for another
    number, and the layer would still write.
    """
    for norm in self._norms:
      norm.track_running_stats = False
    yield
    for norm in self._norms:
      norm.track_running_stats = True


def flip_and_crop(images: torch.Tensor, padding: int = 4) -> torch.Tensor:
  """Mirrors half of the images, pads by reflection and crops, in one gather.

  Args:
    images: uint8 [n, height, width, channels].
    padding: pixels on each side, less than height and width.

  Raises:
    ValueError: the images are too small to be reflected that far.
  """
  n, height, width, _ = images.shape
  if padding >= min(height, width):
    raise ValueError(
      f'images of {height}x{width} pixels cannot be padded by reflection of '
      f'{padding}; give larger ones'
    )
  device = images.device
  is_flipped = torch.rand(n, 1, device=device) < 0.5
  starts = torch.randint(-padding, padding + 1, (2, n, 1), device=device)
  rows = _reflect(starts[0], height)
  columns = _reflect(starts[1], width)
  columns = torch.where(is_flipped, width - 1 - columns, columns)
  examples = torch.arange(n, device=device)[:, None, None]
  return images[examples, rows[:, :, None], columns[:, None, :]]


def _reflect(start: torch.Tensor, size: int) -> torch.Tensor:
  """Returns `size` indices from start [n, 1] on, mirrored at both ends."""
  index = (start + torch.arange(size, device=start.device)).abs()
  return size - 1 - (size - 1 - index).abs()


def count_flops(network: nn.Module, inputs: torch.Tensor) -> int:
  """Returns the FLOPs of matrix products and convolutions in one gradient.

  Args:
    network: whose parameters may be on the device 'meta'.
    inputs: a batch, on the same device. No class of them is known: all are 0.
  """
  counter = flop_counter.FlopCounterMode(display=False)
  # Attention as the matrix products that it is, whatever kernel computes it.
  with attention.sdpa_kernel(attention.SDPBackend.MATH), counter:
    logits = network(inputs).flatten(0, -2)
    classes = torch.zeros(len(logits), dtype=torch.long, device=inputs.device)
    F.cross_entropy(logits, classes).backward()
  return counter.get_total_flops()

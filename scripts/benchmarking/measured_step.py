"""A training step of a config, compiled and ready to be timed."""

import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

import jax

from sam_jax import models
from sam_jax.configs import default, text
from sam_jax.runs import build as build_lib, initialization, provenance
from sam_jax.sweeps import method_list
from sam_jax.training import train_step
from scripts import benchmarking
from scripts.benchmarking import flops

NUM_CLASSES = 10
_DATA = 'benchmark'
_CACHE_HIT = '/jax/compilation_cache/cache_hits'


@dataclasses.dataclass(frozen=True)
class Setup:
  """What a step is of.

  Attributes:
    model: its name.
    batch_size: B.
    method: as a list of methods has it: 'sam', 'looksam(every=5)'.
    m: None is B / devices.
    microbatch_size: None is the smaller of m and B / devices.
    loop: how a device goes through several microbatches.
    image_size: height and width.
    channels: of the images.
    num_classes: of the images.
    context_length: tokens of a window; None has images.
    vocabulary_size: tokens that a language model knows.
    compute_dtype: of the activations.
    matmul_precision: None is the device's own.
    optimizer: 'sgd' with Nesterov's momentum, or 'adamw', which language models
      always have.
    remat: whether the backward pass computes blocks again.
  """

  model: str
  batch_size: int
  method: str = 'sgd'
  m: int | None = None
  microbatch_size: int | None = None
  loop: str = 'scan'
  image_size: int = 32
  channels: int = 3
  num_classes: int = NUM_CLASSES
  context_length: int | None = None
  vocabulary_size: int = 256
  compute_dtype: str = 'float32'
  matmul_precision: str | None = None
  optimizer: str = 'sgd'
  remat: bool = False

  def config(self) -> Any:
    """Returns the config: the paper's CIFAR recipe, or a language model's."""
    config = default.get_config()
    _set_method(config, self.method)
    config.model.name = self.model
    config.model.remat = self.remat or None
    if self.model.startswith('efficientnet'):
      config.model.resolution = self.image_size
    if self.context_length is None:
      self._register()
      config.augmentation.name = 'basic'
      config.data.name = self._data
      if self.optimizer == 'adamw':
        config.optimizer.name = 'adamw'
        config.weight_decay.place = 'decoupled'
    else:
      text.adamw(config)
      config.data.name = benchmarking.register_tokens(
        count=self.batch_size,
        length=self.context_length,
        vocabulary_size=self.vocabulary_size,
      )
      config.data.context_length = self.context_length
      config.data.vocabulary_size = self.vocabulary_size
    config.compute_dtype = self.compute_dtype
    config.matmul_precision = self.matmul_precision
    config.batch_size = self.batch_size
    config.m, config.microbatch_size = self.m, self.microbatch_size
    config.microbatch_loop = self.loop
    return build_lib.resolve(config, jax.device_count())

  def build(self) -> build_lib.Experiment:
    """Returns the objects of the step."""
    return build_lib.build(self.config())

  @property
  def _data(self) -> str:
    """The name of the random images."""
    sizes = (self.batch_size, self.image_size, self.channels, self.num_classes)
    return '_'.join(map(str, (_DATA, *sizes)))

  def _register(self) -> None:
    """Makes the random images, as many as a batch, a data set."""
    make = functools.partial(
      benchmarking.noise,
      count=self.batch_size,
      size=self.image_size,
      channels=self.channels,
      num_classes=self.num_classes,
    )
    benchmarking.register_noise(self._data, make)


def _set_method(config: Any, method: str) -> None:
  """Sets the method of a config, and its fields."""
  (entry,) = method_list.parse(method)
  config.method.name = entry.name
  with config.unlocked():
    for field, values in entry.values.items():
      if len(values) > 1:
        raise ValueError(f'{field} has {len(values)} values; give one of them')
      config.method[field] = values[0]


@dataclasses.dataclass
class Candidate:
  """A step, compiled, and where its training stands.

  Attributes:
    setup: what it is of.
    experiment: its objects.
    step: compiled, `(state, batch) -> (state, metrics)`.
    state: of the training; a step takes it and gives a new one.
    batch: on the devices; every step has the same one.
    parameters: their number.
    compile_seconds: of tracing, lowering and compiling; None if the program
      came out of the compilation cache.
    memory_mib: planned by the compiler.
    flops: of a step on all devices, see `flops.count`.
  """

  setup: Setup
  experiment: build_lib.Experiment
  step: Any
  state: train_step.TrainState
  batch: dict
  parameters: int
  compile_seconds: float | None
  memory_mib: float
  flops: int

  @property
  def gradients(self) -> float:
    """How many gradients of the whole batch a step costs, by declaration."""
    return self.experiment.fns.method.gradient_evaluations

  def take(self, count: int) -> float:
    """Takes steps; returns the seconds of one, and waits for the last."""
    start = time.perf_counter()
    for _ in range(count):
      self.state, metrics = self.step(self.state, self.batch)
    jax.block_until_ready((self.state, metrics))
    return (time.perf_counter() - start) / count

  def copy_state(self) -> train_step.TrainState:
    """Returns a copy of where the training stands, which a step may take."""
    return jax.tree.map(lambda x: x.copy(), self.state)


def prepare(setup: Setup) -> Candidate:
  """Compiles a step and initialises its training."""
  (waiting,) = compile_together([setup])
  return waiting()


def compile_together(
  setups: Sequence[Setup],
) -> list[Callable[[], Candidate]]:
  """Compiles steps side by side, and waits until all are compiled.

  What the threads do at the same time is to lower programs and to make machine
  code. On a GPU the kernels of one program after another are timed, as far as
  is known: XLA's autotuner holds a lock of the device.

  Args:
    setups: of the steps.

  Returns:
    For each a function that initialises its training, and returns it with the
    program; or that raises what the compiler raised.
  """
  pool = futures.ThreadPoolExecutor(len(setups))
  found = []
  for setup in setups:
    experiment = setup.build()
    start = time.perf_counter()
    shapes = (experiment.state_shapes(), experiment.batch_shapes())
    traced = experiment.compile_train_step().trace(*shapes)
    seconds = time.perf_counter() - start
    program = pool.submit(_compile, traced, seconds)
    count = _flops(setup, traced, shapes)
    found.append(functools.partial(_start, setup, experiment, count, program))
  pool.shutdown()  # waits: nothing may be timed beside the compiler
  return found


def _compile(traced: Any, seconds: float) -> tuple[Any, float | None]:
  """Returns a program, and the seconds that it took; None from the cache.

  Args:
    traced: the step.
    seconds: that tracing it took.
  """
  hits = _cache_hits()
  start = time.perf_counter()
  compiled = traced.lower().compile()
  seconds += time.perf_counter() - start
  return compiled, None if _cache_hits() > hits else seconds


def _start(
  setup: Setup,
  experiment: build_lib.Experiment,
  count: int,
  program: futures.Future,
) -> Candidate:
  """Returns a step at the beginning of its training."""
  compiled, seconds = program.result()
  state = experiment.parallel.replicate(
    initialization.initial_state(experiment, seed=0)
  )
  stream = experiment.task.train_batches(
    experiment.dataset.train, setup.batch_size, seed=0
  )
  return Candidate(
    setup=setup,
    experiment=experiment,
    step=compiled,
    state=state,
    batch=experiment.parallel.shard(next(stream)),
    parameters=provenance.count_parameters(state.params),
    compile_seconds=seconds,
    memory_mib=benchmarking.memory(compiled),
    flops=count,
  )


@functools.cache
def _cached() -> list[int]:
  """Returns a list that gets the thread of each program out of the cache."""
  found: list[int] = []

  def listen(event: str, **_: Any) -> None:
    if event == _CACHE_HIT:
      found.append(threading.get_ident())

  jax.monitoring.register_event_listener(listen)
  return found


def _cache_hits() -> int:
  """Returns how many programs this thread had out of the cache so far."""
  return _cached().count(threading.get_ident())


def _flops(setup: Setup, traced: Any, shapes: tuple[Any, Any]) -> int:
  """Returns the operations of a step.

  The fused kernel of the attention is no matrix product to who looks at the
  program: the step is traced again without it.
  """
  if setup.compute_dtype == 'bfloat16' and _attends(setup):
    config = setup.config()
    config.model.attention = 'xla'
    step = build_lib.build(config).compile_train_step()
    traced = step.trace(*shapes)
  return flops.count(traced.jaxpr)


def _attends(setup: Setup) -> bool:
  """Whether the kernel of a model's attention can be chosen."""
  return 'attention' in (models.options(setup.model) or ())

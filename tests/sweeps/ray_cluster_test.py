"""Cells on a Ray cluster of two machines, one of which dies."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import sys
import threading
import time
import types

import pytest

from sam_jax.runs import lock
from sam_jax.sweeps import cells as cells_lib, execution, ray_cluster
from tests.sweeps import made_up

# Ray's test cluster starts its nodes by fork and exec, in a process in which an
# earlier test may have started JAX.
pytestmark = pytest.mark.filterwarnings(
  r'ignore:os\.fork\(\) was called:RuntimeWarning'
)

# A run in its place: says where it runs, waits until it may end, and leaves a
# line for each time that it has ended. Asked to stop, it says so and ends.
_PROGRAM = f"""
import os, pathlib, signal, sys, time
workdir = pathlib.Path(sys.argv[1])
workdir.mkdir(exist_ok=True)
def stop(signum, frame):
  (workdir / 'saved').touch()
  os._exit(128 + signum)
signal.signal(signal.SIGTERM, stop)
deadline = time.monotonic() + 300
with open(workdir / 'starts', 'a') as stream:
  print(os.environ['MACHINE'], os.getpid(), file=stream)
print('GPU', os.environ.get('CUDA_VISIBLE_DEVICES'))
while not (workdir.parent / 'go').exists():
  time.sleep(0.05)
  if time.monotonic() > deadline:
    sys.exit('nobody said go')
with open(workdir / 'metrics.jsonl', 'a') as stream:
  stream.write('end\\n')
(workdir / 'result.json').write_text({json.dumps(made_up.RESULT)!r})
"""
_CELLS = [{'config': 'c.py', 'seed': seed} for seed in (0, 1)]
_NEEDY = _CELLS[1] | {'labels_from': cells_lib.Like({})}


@pytest.fixture(scope='module')
def head():
  """A cluster on the loopback address, without room for cells."""
  ray_constants = pytest.importorskip('ray._private.ray_constants')
  from ray import cluster_utils

  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('RAY_USAGE_STATS_ENABLED', '0')
    # Else Ray puts an address of this machine in place of the loopback one.
    patch.setenv(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, '0')
    patch.setattr(ray_constants, 'ENABLE_RAY_CLUSTER', False)
    made = cluster_utils.Cluster(
      initialize_head=True,
      head_node_args={
        'num_cpus': 0,
        'node_ip_address': '127.0.0.1',
        'include_dashboard': False,
      },
    )
    yield made
    made.shutdown()


@pytest.fixture
def machines(head):
  """Two machines of the cluster, each with one GPU, hence one cell, by name."""
  import ray

  made = {
    name: head.add_node(
      num_cpus=2,
      num_gpus=1,
      node_ip_address='127.0.0.1',
      env_vars={'MACHINE': name},
    )
    for name in ('a', 'b')
  }
  head.wait_for_nodes()
  yield made
  ray.shutdown()
  for node in made.values():
    if node in head.worker_nodes:
      head.remove_node(node, allow_graceful=False)


def _place(head, directory):
  return ray_cluster.RayCluster(
    directory,
    head.address,
    command=lambda cell, directory: [
      '-c',
      _PROGRAM,
      str(cells_lib.workdir(cell, directory)),
    ],
  )


def _wait(condition):
  while not condition():
    time.sleep(0.05)


def _starts(directory):
  """Machine and process of each start of a cell, by the cell's name."""
  return {
    path.parent.name: [line.split() for line in path.read_text().splitlines()]
    for path in directory.glob('*/starts')
  }


def _runs(pid):
  """Whether there is a process of that number that is not a zombie."""
  try:
    stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
  except (FileNotFoundError, ProcessLookupError):
    return False
  return stat.rpartition(')')[2].split()[0] != 'Z'


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='asks the kernel of Linux')
def test_every_cell_finishes_once_though_a_machine_dies(
  head, machines, tmp_path
):

  def kill():
    _wait(lambda: len(_starts(tmp_path)) == 2)
    pids = {m: int(p) for [[m, p]] in _starts(tmp_path).values()}
    head.remove_node(machines['b'], allow_graceful=False)
    # The run dies with its machine, and may not end after all.
    _wait(lambda: not _runs(pids['b']))
    (tmp_path / 'go').touch()

  killer = threading.Thread(target=kill, daemon=True)
  killer.start()
  cells = [_NEEDY, *_CELLS]
  status = execution.execute(cells, tmp_path, _place(head, tmp_path))
  killer.join()
  assert status == 0
  machines = [[m for m, _ in s] for s in _starts(tmp_path).values()]
  assert sorted(machines) == [['a'], ['a'], ['b', 'a']]
  for cell in cells:
    workdir = cells_lib.workdir(cell, tmp_path)
    assert (workdir / 'metrics.jsonl').read_text() == 'end\n'
    assert json.loads((workdir / 'result.json').read_text()) == made_up.RESULT
    log = execution.log_path(cell, tmp_path).read_text()
    assert set(log.splitlines()) == {'GPU 0'}
  assert not (tmp_path / 'failed').exists()


@pytest.mark.slow
@pytest.mark.usefixtures('machines')
def test_a_signal_has_the_cells_save_and_end(head, tmp_path):
  cells = [_CELLS[0] | {'seed': seed} for seed in range(3)]

  def interrupt():
    _wait(lambda: len(_starts(tmp_path)) == 2)
    os.kill(os.getpid(), signal.SIGTERM)

  threading.Thread(target=interrupt, daemon=True).start()
  place = _place(head, tmp_path)
  status = execution.execute(cells, tmp_path, place)
  assert status == 128 + signal.SIGTERM
  # Two ran, and the third one waited for room.
  assert len(list(tmp_path.glob('*/saved'))) == len(_starts(tmp_path)) == 2
  (tmp_path / 'go').touch()
  assert execution.execute(cells, tmp_path, place) == 0


def test_a_run_that_outlives_its_machine_is_waited_for(tmp_path, monkeypatch):
  """It may even finish; then there is nothing to do."""
  owner = contextlib.ExitStack()
  owner.enter_context(lock.hold(tmp_path))
  waited = []

  def finish(seconds):
    waited.append(seconds)
    if len(waited) == 3:
      (tmp_path / 'result.json').write_text(json.dumps(made_up.RESULT))
      owner.close()

  monkeypatch.setattr(ray_cluster.time, 'sleep', finish)
  monkeypatch.setattr(ray_cluster.child, 'Child', None)  # starts nothing
  log = tmp_path / 'log'
  end = ray_cluster._run_cell([], tmp_path, log, {}, os.getcwd())
  assert end.result == made_up.RESULT
  assert len(waited) == 3


def test_a_directory_that_cannot_be_written_to_is_not_waited_for(
  tmp_path, monkeypatch
):
  """The run says what is wrong with it."""

  class Started(Exception):
    pass

  def start(*arguments):
    raise Started

  monkeypatch.setattr(ray_cluster.time, 'sleep', lambda seconds: pytest.fail())
  monkeypatch.setattr(ray_cluster.child, 'Child', start)
  (tmp_path / lock.FILE).mkdir()  # which no process can lock
  with pytest.raises(Started):
    ray_cluster._run_cell([], tmp_path, tmp_path / 'log', {}, os.getcwd())


def test_runs_get_the_variables_that_they_depend_on(tmp_path, monkeypatch):
  """A plug-in may be found by PYTHONPATH alone."""
  sent = []

  def remote(command, workdir, log, environment, here):
    sent.append(environment)

  task = types.SimpleNamespace(remote=remote)
  stub = types.ModuleType('ray')
  stub.init = lambda **options: None
  stub.cluster_resources = dict
  stub.remote = lambda function: types.SimpleNamespace(
    options=lambda **options: task
  )
  monkeypatch.setitem(sys.modules, 'ray', stub)
  monkeypatch.setenv('PYTHONPATH', 'plugins')
  monkeypatch.setenv('XLA_FLAGS', '--xla')
  monkeypatch.setenv('SECRET', 'word')
  ray_cluster.RayCluster(tmp_path, 'auto').start(_CELLS[0])
  passed_on = {'PYTHONPATH': 'plugins', 'XLA_FLAGS': '--xla'}
  assert passed_on.items() <= sent[0].items()
  assert 'SECRET' not in sent[0]


def test_cells_are_checked_as_a_task(tmp_path, monkeypatch):
  """On a machine of the cluster, with the variables of a run."""
  checked = []

  def in_process(cells, directory, environment):
    checked.append((cells, directory, environment['XLA_FLAGS']))
    return ['a problem']

  stub = types.ModuleType('ray')
  stub.init = lambda **options: None
  stub.cluster_resources = lambda: {'GPU': 2}
  stub.get = lambda reference: reference
  stub.remote = lambda function: types.SimpleNamespace(
    options=lambda **options: types.SimpleNamespace(
      remote=function, options=options
    )
  )
  monkeypatch.setitem(sys.modules, 'ray', stub)
  monkeypatch.setenv('XLA_FLAGS', '--xla')
  monkeypatch.setattr(ray_cluster.check, 'in_process', in_process)
  place = ray_cluster.RayCluster(tmp_path, 'auto')
  assert place.check(_CELLS) == ['a problem']
  assert checked == [(_CELLS, tmp_path, '--xla')]
  assert place._check.options == place._task.options
  assert place._check.options['num_gpus'] == 1


def test_an_address_where_nothing_listens_is_refused(tmp_path):
  pytest.importorskip('ray')
  with socket.socket() as taken:  # bound, and not listening
    taken.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{taken.getsockname()[1]}'
    with pytest.raises(ValueError, match=f"reached at '{address}': .*refused"):
      ray_cluster.RayCluster(tmp_path, address)


def test_without_ray_the_error_names_the_extra(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'ray', None)
  with pytest.raises(ModuleNotFoundError, match=r"'sam_jax\[ray\]'"):
    ray_cluster.RayCluster(tmp_path, 'auto')

"""Trains and packs the runs that come with the package, in a minute.

    python scripts/ship_runs.py

They are the demo's, of seed 0. Each becomes an archive of about half a megabyte
in sam_jax/runs/shipped_runs; `sam_jax.runs.shipped` says what they are for, and
its test checks their numbers. Run it again when the format of a checkpoint has
changed.
"""

import pathlib
import sys
import tempfile
import zipfile
from collections.abc import Sequence

# The checkout goes first, installed or not.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from sam_jax import _cli
from sam_jax.configs import digits
from sam_jax.runs import loop, shipped

flags = _cli.Flags()
_DIRECTORY = flags.DEFINE_string(
  'directory', str(shipped.DIRECTORY), 'Where the archives go.'
)
_EPOCHS = flags.DEFINE_integer('epochs', 50, 'Length.', lower_bound=1)

METHODS = {
  'digits_cnn_sgd': {'method.name': 'sgd', 'method.rho': None},
  'digits_cnn_sam': {'method.name': 'sam'},
}
# Nothing but the end is packed.
_FIELDS = {
  'checkpoint.keep_best': False,
  'checkpoint.max_to_keep': 1,
  'log.tensorboard': False,
}
_DATE = (1980, 1, 1, 0, 0, 0)  # of all files; the archive has no other


def main(argv: Sequence[str]) -> None:
  _cli.refuse_arguments(argv[1:])
  directory = pathlib.Path(_DIRECTORY.value)
  directory.mkdir(parents=True, exist_ok=True)
  for name, fields in METHODS.items():
    config = digits.get_config('noisy')
    config.num_epochs = _EPOCHS.value
    config.update_from_flattened_dict(fields | _FIELDS)
    with tempfile.TemporaryDirectory() as workdir:
      loop.train_and_evaluate(config, workdir)
      pack(pathlib.Path(workdir), directory / f'{name}.zip')


def pack(workdir: pathlib.Path, archive: pathlib.Path) -> None:
  """Packs a run directory."""
  with zipfile.ZipFile(archive, 'w') as packed:
    for path in sorted(workdir.rglob('*')):
      name = path.relative_to(workdir).as_posix()
      if path.is_file():
        info = zipfile.ZipInfo(name, _DATE)
        info.compress_type = zipfile.ZIP_DEFLATED
        packed.writestr(info, path.read_bytes())
  print(f'{archive}: {archive.stat().st_size:,} bytes')


def cli() -> None:
  _cli.run(main, 'ship_runs', flags)


if __name__ == '__main__':
  cli()

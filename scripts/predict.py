"""Runs `python -m sam_jax.predict` from a checkout."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from sam_jax.predict import cli

if __name__ == '__main__':
  cli()

#!/usr/bin/env bash
# Format check, lint, type check, doctests and the test suite; sets the
# environment up first. Stops at the first stage that fails.
#
#   scripts/test.sh [--slow] [ARGUMENT_OF_PYTEST ...]
#
# --slow, or SAM_JAX_SLOW=1, also runs the tests marked slow.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup_env.sh

slow="${SAM_JAX_SLOW:-0}"
options=(-n auto --maxprocesses 8 --dist worksteal)
for argument in "$@"; do
  if [[ "$argument" == --slow ]]; then
    slow=1
  else
    options+=("$argument")
  fi
done
[[ "$slow" != 0 ]] || options=(-m 'not slow' "${options[@]}")

python -m ruff format --check .
python -m ruff check .
python -m mypy
python -m pytest "${options[@]}"

#!/usr/bin/env bash
# SAM against SGD on real data: sets the environment up, trains, prints the
# comparison and draws it. See scripts/demo.py for its options.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup_env.sh
exec python scripts/demo.py "$@"

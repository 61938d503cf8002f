# Sets up the Python environment of the repository; source it from bash:
#
#   source scripts/setup_env.sh || exit 1
#
# Afterwards `python` is that of the active virtual environment, or else of
# $SAM_JAX_VENV (.venv) in the repository root, which is made when missing with
# $SAM_JAX_PYTHON (a path, or a version such as 3.11), or with the newest Python
# of 3.14 to 3.11 that runs and can install requirements.txt. Once that is done,
# a stamp in the environment says so: later runs neither install anything nor
# need a network.

_env_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
_env_venv="$_env_root/${SAM_JAX_VENV:-.venv}"
_env_minors='14 13 12 11'
_env_stamp='sam_jax_requirements'   # What is installed, in the environment.
_env_marker='sam_jax_installing'    # There while an installation is unfinished.

_env_say() { printf 'setup: %s\n' "$*" >&2; }

# _env_runs PYTHON [X.Y]: it starts and is X.Y, or 3.11 at least.
_env_runs() {
  "$1" - "${2:-}" >/dev/null 2>&1 <<'PY'
import sys
ok = '%d.%d' % sys.version_info[:2] == sys.argv[1] or not sys.argv[1]
sys.exit(not (ok and sys.version_info >= (3, 11)))
PY
}

# _env_makes_venvs PYTHON: Debian's python3 without python3-venv does not.
_env_makes_venvs() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

# _env_candidates X.Y: where that Python may be, one path per line. A shim on
# the PATH may be there and not run, so pyenv's own versions are listed too.
_env_candidates() {
  type -aP "python$1" python3 python || true
  ls -d "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python 2>/dev/null |
    sort -rV
}

# _env_find X.Y: prints the first candidate that works.
_env_find() {
  local python
  while IFS= read -r python; do
    if _env_runs "$python" "$1" && _env_makes_venvs "$python"; then
      printf '%s\n' "$python"
      return 0
    fi
  done < <(_env_candidates "$1")
  return 1
}

# _env_fingerprint PYTHON: what has to be in the stamp.
_env_fingerprint() {
  "$1" - "$_env_root/requirements.txt" <<'PY'
import hashlib
import pathlib
import platform
import sys
requirements = pathlib.Path(sys.argv[1]).read_bytes()
print(hashlib.sha256(requirements).hexdigest(), platform.python_version())
PY
}

# _env_ready DIR: everything is installed there.
_env_ready() {
  [[ -f "$1/$_env_stamp" && ! -f "$1/$_env_marker" ]] &&
    [[ "$(_env_fingerprint "$1/bin/python" 2>/dev/null)" == \
      "$(cat "$1/$_env_stamp")" ]]
}

# _env_install DIR: installs the requirements there and leaves the stamp.
_env_install() {
  local python="$1/bin/python"
  _env_say "installing requirements.txt into $1 (a minute or two) ..."
  touch "$1/$_env_marker" || return 1
  "$python" -m pip --version >/dev/null 2>&1 ||
    "$python" -m ensurepip >/dev/null || return 1
  "$python" -m pip install --quiet --disable-pip-version-check \
    -r "$_env_root/requirements.txt" || return 1
  _env_fingerprint "$python" >"$1/$_env_stamp" && rm "$1/$_env_marker"
}

# _env_create PYTHON: makes the environment anew, whatever was there before.
_env_create() {
  _env_say "creating $_env_venv with $1"
  "$1" -m venv --clear --without-pip "$_env_venv" && _env_install "$_env_venv"
}

# _env_create_newest: tries the Pythons from the newest to the oldest.
_env_create_newest() {
  local minor python tried=''
  for minor in $_env_minors; do
    python="$(_env_find "3.$minor")" || continue
    _env_create "$python" && return 0
    tried+=" $python"
    _env_say "installing with $python failed"
  done
  if [[ -n "$tried" ]]; then
    _env_say "requirements.txt cannot be installed with any of:$tried"
  else
    _env_say 'found no Python from 3.11 to 3.14 that runs and has the venv' \
      'module; install one, or set SAM_JAX_PYTHON to its path'
  fi
  return 1
}

# _env_minor PYTHON: prints its version as X.Y.
_env_minor() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'
}

# _env_reusable PYTHON: the environment is whole, though perhaps of older
# requirements, and of the version of PYTHON if one is asked for. An interrupted
# installation leaves the marker.
_env_reusable() {
  [[ ! -f "$_env_venv/$_env_marker" ]] &&
    _env_runs "$_env_venv/bin/python" "${1:+$(_env_minor "$1")}"
}

# _env_local: the environment, made or completed where it has to be.
_env_local() {
  local python="${SAM_JAX_PYTHON:-}"
  if [[ "$python" =~ ^3\.[0-9]+$ ]]; then
    python="$(_env_find "$python")"
  fi
  if [[ -n "${SAM_JAX_PYTHON:-}" ]] && ! { _env_runs "$python" &&
      _env_makes_venvs "$python"; }; then
    _env_say "SAM_JAX_PYTHON=$SAM_JAX_PYTHON is no Python >= 3.11 that runs" \
      'and has the venv module; correct or unset it'
    return 1
  fi
  if _env_reusable "$python"; then
    _env_ready "$_env_venv" || _env_install "$_env_venv"
  elif [[ -n "$python" ]]; then
    _env_create "$python"
  else
    _env_create_newest
  fi
}

# _env_active: the virtual environment that is active already.
_env_active() {
  if ! _env_runs "$VIRTUAL_ENV/bin/python"; then
    _env_say "the active environment $VIRTUAL_ENV has no Python >= 3.11 that" \
      'runs; deactivate it'
    return 1
  fi
  _env_ready "$VIRTUAL_ENV" || _env_install "$VIRTUAL_ENV"
}

# _env_report: one line that names the Python and the JAX in use.
_env_report() {
  python - <<'PY'
import importlib.metadata
import platform
import sys
jax = importlib.metadata.version('jax')
print(f'Python {platform.python_version()} ({sys.executable}), jax {jax}')
PY
}

_env_main() {
  if [[ -n "${VIRTUAL_ENV:-}" ]]; then
    _env_active || return 1
  else
    _env_local || return 1
    export VIRTUAL_ENV="$_env_venv"
  fi
  unset PYTHONHOME
  export PATH="$VIRTUAL_ENV/bin:$PATH"
  _env_report
}

_env_main

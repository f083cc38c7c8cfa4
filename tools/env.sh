# Sourced by the other scripts: makes .venv and installs the package with the named extras, as in
# `. tools/env.sh "check test"`, unless that has been done from the same files. Sets $python.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."

extras="${1:-}"
wanted="$(cat setup.py tools/constraints.txt | cksum)"

current() { [ -f "$1" ] && [ "$(cat "$1")" = "$wanted" ]; }

installed() {
  local name
  for name in ${extras:-""}; do
    current ".venv/.installed-$name" || return 1
  done
}

find_python() {
  python=.venv/bin/python
  [ ! -x .venv/Scripts/python.exe ] || python=.venv/Scripts/python.exe
}

find_python
if ! installed; then
  base="${PYTHON:-python3}"
  command -v "$base" >/dev/null 2>&1 || base=python
  "$base" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "error: Python 3.10 or newer is needed; '$base' is $("$base" -V 2>&1). Set PYTHON=/path/to/python3" >&2
    exit 2
  }
  echo "Installing into .venv (once; downloads PyTorch unless pip has it already) ..."
  [ -d .venv ] || "$base" -m venv .venv
  find_python
  "$python" -m pip install -q --disable-pip-version-check -c tools/constraints.txt \
    -e ".${extras:+[${extras// /,}]}"
  for name in "" $extras; do  # "": the package itself
    echo "$wanted" > ".venv/.installed-$name"
  done
fi

# Sourced by the other scripts: makes .venv and installs the package with the named extra, unless
# that has been done from the same files. Sets $python.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."

extra="${1:-}"
wanted="$(cat setup.py tools/constraints.txt | cksum)"
# Every install has the package itself, so without an extra any stamp will do.
stamps=".venv/.installed-$extra"
[ -n "$extra" ] || stamps=".venv/.installed-*"

installed() {
  local stamp
  for stamp in $stamps; do
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && return 0
  done
  return 1
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
    -e ".${extra:+[$extra]}"
  echo "$wanted" > ".venv/.installed-$extra"
fi

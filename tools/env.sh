# Sourced by the other scripts: makes .venv and installs the package with the named extras, unless
# that has been done with the same files. Sets $python.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."

extras="${1:-}"
if [ -x .venv/Scripts/python.exe ]; then python=.venv/Scripts/python.exe; else python=.venv/bin/python; fi
stamp=".venv/.installed${extras:+-$extras}"
wanted="$(cat setup.py tools/constraints.txt | cksum) $extras"

if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
  base="${PYTHON:-python3}"
  command -v "$base" >/dev/null 2>&1 || base=python
  "$base" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "error: Python 3.10 or newer is needed; '$base' is $("$base" -V 2>&1). Set PYTHON=/path/to/python3" >&2
    exit 2
  }
  echo "Installing into .venv (once; downloads PyTorch unless pip has it already) ..."
  [ -d .venv ] || "$base" -m venv .venv
  [ -x .venv/Scripts/python.exe ] && python=.venv/Scripts/python.exe
  "$python" -m pip install -q --disable-pip-version-check -c tools/constraints.txt \
    -e ".${extras:+[$extras]}"
  echo "$wanted" > "$stamp"
fi

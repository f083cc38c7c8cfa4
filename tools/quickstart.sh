#!/usr/bin/env bash
# Installs into .venv and runs the quick start: teacher, student alone, student distilled.
# Flags go to `python -m caffe_kd quickstart` (-h lists them).
. "$(dirname "${BASH_SOURCE[0]}")/env.sh" ""
exec "$python" -m caffe_kd quickstart "$@"

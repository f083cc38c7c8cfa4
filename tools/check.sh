#!/usr/bin/env bash
# Lint, format and types.
. "$(dirname "${BASH_SOURCE[0]}")/env.sh" check
"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m mypy

#!/usr/bin/env bash
# Makes the environment if needed and runs the whole test suite; flags go to pytest.
. "$(dirname "${BASH_SOURCE[0]}")/env.sh" test
# One thread a worker: the nets are small, and two workers share two cores best so.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "$python" -m pytest -n "${TEST_WORKERS:-2}" "$@"

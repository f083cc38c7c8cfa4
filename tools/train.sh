#!/usr/bin/env bash
# bash tools/train.sh mnist kd [FLAGS]: runs prototxt/mnist/kd_solver.prototxt with a log in logs/.
# If the solver names teacher weights that are not there, the teacher is trained first.
. "$(dirname "${BASH_SOURCE[0]}")/env.sh" ""

usage() {
  echo "usage: bash tools/train.sh EXAMPLE JOB [flags of train_kd]" >&2
  for solver in prototxt/*/*_solver.prototxt; do
    name="$(basename "$solver" _solver.prototxt)"
    echo "  bash tools/train.sh $(basename "$(dirname "$solver")") $name" >&2
  done
  exit 2
}

[ $# -ge 2 ] || usage
example="$1" job="$2"
shift 2
solver="prototxt/$example/${job}_solver.prototxt"
[ -f "$solver" ] || { echo "error: there is no $solver" >&2; usage; }

run() {  # run SOLVER NAME [FLAGS]
  local solver="$1" log
  log="logs/${example}_$2_$(date +%Y%m%d-%H%M%S).log"
  shift 2
  echo "== $solver; log in $log"
  "$python" -m caffe_kd train -solver "$solver" -log "$log" "$@"
}

[ -e data/mnist/train-labels-idx1-ubyte ] || [ -e data/mnist/train-labels-idx1-ubyte.gz ] ||
  "$python" -m caffe_kd get_mnist

weights="$(sed -n 's/^[^#]*weights: *"\([^"]*\)".*/\1/p' "$solver" | head -n 1)"
if [ -n "$weights" ] && [ ! -f "$weights" ]; then
  echo "== there is no $weights yet: training the teacher first"
  # mlp_kd learns from mlp_teacher, kd from teacher.
  teacher="${job%kd}teacher"
  run "prototxt/$example/${teacher}_solver.prototxt" "$teacher"
fi
run "$solver" "$job" "$@"

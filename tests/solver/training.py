"""What the tests of the solver share: small nets, their data, and solvers that log into memory."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from caffe_kd.logs.log import Log
from caffe_kd.net import Net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.proto.binary import write_weights
from caffe_kd.solver.plan import Overrides, read_plan
from caffe_kd.solver.signals import SignalActions
from caffe_kd.solver.solver import Solver

GOLDEN = Path(__file__).parents[1] / "golden" / "solvers"
GOLDEN_CASES = sorted(path.stem for path in GOLDEN.glob("*.npz"))

# The recordings' own bound for losses and parameters: float32 sums, added in another order.
GOLDEN_RTOL = 5e-4
GOLDEN_ATOL = 2e-5

ROWS = 10

DATA = """
layer { name: "data" type: "HDF5Data" top: "data" top: "label"
  hdf5_data_param { source: "rows.txt" batch_size: 4 } }
"""
STUDENT = (
    'name: "tiny"'
    + DATA
    + """
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  param { lr_mult: 1 } param { lr_mult: 2 }
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy"
  include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
)
# With everything that must stay as it is while a student learns.
TEACHER = (
    'name: "big"'
    + DATA
    + """
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
  inner_product_param { num_output: 6 weight_filler { type: "xavier" } } }
layer { name: "norm" type: "BatchNorm" bottom: "ip1" top: "norm" }
layer { name: "relu" type: "ReLU" bottom: "norm" top: "norm" }
layer { name: "drop" type: "Dropout" bottom: "norm" top: "norm" }
layer { name: "ip" type: "InnerProduct" bottom: "norm" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "unused" type: "InnerProduct" bottom: "norm" top: "unused"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
)
DISTILLER = """
layer { name: "kd" type: "DistillingLoss" bottom: "ip" bottom: "teacher/ip" top: "kd"
  include { phase: TRAIN } }
"""
SETTINGS = 'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" random_seed: 1\n'
DISTIL = (
    SETTINGS + 'teacher { net: "teacher.prototxt" weights: "teacher.caffemodel" } '
    'distiller_net: "distiller.prototxt"\n'
)


class MemoryLog(Log):
    """A log whose lines can be read back."""

    def __init__(self) -> None:
        self.buffer = io.StringIO()
        super().__init__(None, self.buffer, progress=False)

    @property
    def whole_lines(self) -> list[str]:
        return self.buffer.getvalue().splitlines()

    @property
    def lines(self) -> list[str]:
        """What was logged, without level, time and place."""
        return [line.split("] ", 1)[1] for line in self.whole_lines]

    def matching(self, pattern: str) -> list[str]:
        return [line for line in self.lines if re.search(pattern, line)]


def write_rows(folder: Path, name: str = "rows", offset: int = 0) -> None:
    """Write rows of four values and a label 0 to 2, other ones for each offset."""
    rng = np.random.default_rng(offset)
    with h5py.File(folder / f"{name}.h5", "w") as file:
        file["data"] = rng.normal(size=(ROWS, 4)).astype(np.float32)
        file["label"] = rng.integers(0, 3, ROWS).astype(np.float32)
    (folder / f"{name}.txt").write_text(f"{name}.h5\n")


def write_teacher(folder: Path) -> dict[str, list[np.ndarray]]:
    """Write teacher.prototxt with weights and statistics that are not the initial ones."""
    (folder / "teacher.prototxt").write_text(TEACHER)
    net = Net(text.parse(TEACHER, pb.NetParameter()), pb.TEST, folder / "teacher.prototxt")
    rng = np.random.default_rng(7)
    weights = {
        name: [rng.uniform(0.5, 1.5, blob.shape).astype(np.float32) for blob in blobs]
        for name, blobs in net.weights().items()
    }
    write_weights(folder / "teacher.caffemodel", net.param, weights)
    return weights


def make_solver(
    settings: str = SETTINGS,
    log: MemoryLog | None = None,
    signals: SignalActions | None = None,
    **overrides: Any,
) -> Solver:
    """Write the settings as solver.prototxt in the working directory and build its solver."""
    if "max_iter" not in settings:
        settings += "\nmax_iter: 6\n"
    Path("solver.prototxt").write_text(settings)
    plan = read_plan("solver.prototxt", Overrides(**overrides))
    return Solver(plan, log or MemoryLog(), callbacks=[signals] if signals else [])


def solved(settings: str, **options: Any) -> Solver:
    """Build a solver as ``make_solver`` does, and train to its end."""
    solver = make_solver(settings, **options)
    solver.solve()
    return solver


def lines_of(solver: Solver) -> list[str]:
    assert isinstance(solver.log, MemoryLog)
    return solver.log.lines


def losses_of(solver: Solver, count: int) -> list[float]:
    losses = []
    for _ in range(count):
        solver.step(1)
        losses.append(float(solver.net.blobs["loss"].detach()))
    return losses


def golden_solver(name: str, folder: Path, weights: bool = True) -> Solver:
    """Build the solver of a recorded case in a copy of the recordings' folder."""
    for path in GOLDEN.iterdir():
        if path.suffix in (".prototxt", ".h5", ".txt", ".caffemodel", ".solverstate"):
            shutil.copy(path, folder)
    solver = Solver(read_plan(f"{name}.solver.prototxt"), MemoryLog())
    if weights:
        solver.load_weights("init.caffemodel")
    return solver


def assert_recorded(got: Any, want: Any, what: str, rtol: float = GOLDEN_RTOL) -> None:
    """Compare with a recorded value as the recordings' own check does."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape or got.size == want.size == 1, what
    greatest = float(np.abs(want).max()) if want.size else 0.0
    off = float(np.abs(got - want).max()) if want.size else 0.0
    bound = GOLDEN_ATOL * max(1.0, greatest) + rtol * greatest
    assert off <= bound, f"{what} is off by {off}, at most {bound} is right"


def weights_of(solver: Solver) -> dict[str, list[np.ndarray]]:
    return solver.net.weights()


def assert_same_weights(
    some: dict[str, list[np.ndarray]], others: dict[str, list[np.ndarray]]
) -> None:
    assert some.keys() == others.keys()
    for name, blobs in some.items():
        for blob, other in zip(blobs, others[name], strict=True):
            assert np.array_equal(blob, other), name

"""The quick start: a teacher, a student alone, and the same student distilled.

All files are in one folder: the nets and solvers that were used, snapshots, logs, ONNX models,
``deploy.prototxt`` and ``training.png``. A stage whose inputs have not changed is not run again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core import examples
from ..core.files import write_atomically
from ..core.tables import text_table
from ..data.backends.idx import read_pair
from ..data.mnist import Digits
from ..proto import caffe_pb2 as pb
from ..proto import text
from .runner import ExperimentRunner, RunResult, TimeLeft, Training, digests

if TYPE_CHECKING:
    from ..solver.solver import Solver

TRAIN, TEST = "train", "t10k"
IMAGES, LABELS = "{}-images-idx3-ubyte", "{}-labels-idx1-ubyte"
LATENCY_RUNS = 300


@dataclass(frozen=True)
class Stage:
    """One training of the quick start.

    Attributes:
        name: the name of its snapshots, log and ONNX model.
        title: its name in the table.
        solver: the solver's file among the examples.
        passes: the number of epochs: on MNIST, on the small digits.
    """

    name: str
    title: str
    solver: str
    passes: tuple[int, int]


STAGES = (
    Stage("teacher", "teacher", "teacher_solver.prototxt", (3, 30)),
    Stage("student_alone", "student alone", "student_solver.prototxt", (20, 60)),
    Stage("student", "student distilled", "kd_solver.prototxt", (20, 60)),
)
NETS = ("teacher_train_test.prototxt", "student_train_test.prototxt", "distiller.prototxt")


@dataclass(frozen=True)
class Result:
    """The result of a stage: errors on the test digits, latency in milliseconds."""

    title: str
    parameters: int
    file_bytes: int
    errors: int
    tested: int
    latency_ms: float
    seconds: float
    reused: bool = False


def run(
    folder: Path,
    digits: Digits,
    passes: int | None,
    say: Callable[[str], None],
    gpu: str | None = None,
) -> list[Result]:
    """Run all stages in ``folder`` and plot their curves; return the table's rows.

    Args:
        folder: the folder for all files.
        digits: the digits to train on.
        passes: the number of epochs of each stage; None: the stage's own.
        say: prints a line for the user.
        gpu: the CUDA device to train on, as in ``-gpu``; None: as the solver says.
    """
    from ..solver.run import RunOptions

    _write_nets(folder, digits)
    runner, left = ExperimentRunner(say, RunOptions(gpu=gpu)), TimeLeft([1.0] * len(STAGES))
    results: list[Result] = []
    weights: dict[str, Path] = {}
    for stage in STAGES:
        solver = _write_solver(folder, digits, stage, passes, weights.get("teacher"))
        training = _training(folder, digits, stage, solver, weights.get("teacher"))
        done = runner.run_next(training, stage.title, left)
        weights[stage.name] = done.weights
        results.append(_result(stage, done))
    _plot(folder)
    return results


def _result(stage: Stage, done: RunResult) -> Result:
    return Result(stage.title, seconds=done.seconds, reused=done.reused, **done.values)


def _write_nets(folder: Path, digits: Digits) -> None:
    """Copy the nets, with these digits as their data."""
    for name in NETS:
        net = text.read(examples.folder("mnist") / name, pb.NetParameter())
        for layer in net.layer:
            if layer.type == "Data":
                images = Path(layer.data_param.source).name
                layer.data_param.source = (digits.folder / images).as_posix()
                if images == IMAGES.format(TEST):
                    layer.data_param.batch_size = _test_batch(digits)
        _write_if_new(folder / name, text.to_text(net))


def _read_digits(digits: Digits, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images [N, 28, 28] and labels [N] of the training or test digits."""
    return read_pair(digits.folder / IMAGES.format(part), digits.folder / LABELS.format(part))


def _test_batch(digits: Digits) -> int:
    """Return a batch size that divides the number of test digits, so that each counts once."""
    total = len(_read_digits(digits, TEST)[1])
    return max(size for size in range(1, 101) if total % size == 0)


def _write_solver(
    folder: Path, digits: Digits, stage: Stage, passes: int | None, teacher: Path | None
) -> Path:
    """Write the stage's solver for these digits and this folder; return its path."""
    solver = text.read(examples.folder("mnist") / stage.solver, pb.SolverParameter())
    own, small = stage.passes
    wanted = passes or (own if digits.kind == "MNIST" else small)
    a_pass = max(1, len(_read_digits(digits, TRAIN)[1]) // 64)
    # About ten tests, the last of them at the very end, on the weights that are exported.
    solver.test_interval = a_pass * max(1, wanted // 10)
    solver.max_iter = solver.test_interval * max(1, round(wanted * a_pass / solver.test_interval))
    solver.test_iter[:] = [len(_read_digits(digits, TEST)[1]) // _test_batch(digits)]
    # Not at the very end: for that display Caffe runs one more batch before the last test, which
    # would change BatchNorm's running averages after the snapshot that is exported.
    solver.display = min(solver.display, solver.test_interval)
    while solver.display > 1 and solver.max_iter % solver.display == 0:
        solver.display -= 1
    solver.snapshot_prefix = (folder / stage.name).as_posix()
    for entry in solver.teacher:
        assert teacher is not None
        entry.weights = teacher.name
    path = folder / stage.solver
    _write_if_new(path, text.to_text(solver))
    return path


def _write_if_new(path: Path, content: str) -> None:
    if not path.is_file() or path.read_text(encoding="utf-8") != content:
        write_atomically(path, content.encode())


def _training(
    folder: Path, digits: Digits, stage: Stage, solver: Path, teacher: Path | None
) -> Training:
    files = [solver, *(folder / name for name in NETS)]
    if teacher is not None and stage.name == "student":
        files.append(teacher)

    def inputs() -> dict[str, str]:
        return digests({"digits": digits.kind, **{f.name: f.read_bytes() for f in files}})

    return Training(
        name=stage.title,
        record=folder / f"{stage.name}.json",
        inputs=inputs,
        prepare=lambda: solver,
        files=[folder / f"{stage.name}.onnx", folder / f"{stage.name}.log"],
        measure=partial(_export_and_measure, folder / f"{stage.name}.onnx", digits),
        log=folder / f"{stage.name}.log",
    )


def _export_and_measure(path: Path, digits: Digits, trained: Solver) -> dict[str, Any]:
    from ..solver.run import export

    exported, _ = export(trained.plan, trained, path)
    images, labels = _read_digits(digits, TEST)
    errors, latency = measure(path, images, labels)
    return {
        "parameters": sum(p.blob.numel() for p in exported.net.params),
        "file_bytes": path.stat().st_size,
        "errors": errors,
        "tested": len(labels),
        "latency_ms": latency,
    }


def measure(path: Path, images: np.ndarray, labels: np.ndarray) -> tuple[int, float]:
    """Return an ONNX model's errors on digits and its latency for one, in milliseconds.

    The latency is the median of many runs on one image with one thread.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    pixels = images[:, None].astype(np.float32) / np.float32(256)
    errors = 0
    for start in range(0, len(pixels), 500):
        (logits,) = session.run(None, {name: pixels[start : start + 500]})[:1]
        errors += int((logits.argmax(1) != labels[start : start + 500]).sum())
    times = []
    for index in range(LATENCY_RUNS):
        one = pixels[index % len(pixels)][None]
        started = time.perf_counter()
        session.run(None, {name: one})
        times.append(time.perf_counter() - started)
    return errors, float(np.median(times)) * 1000


def _plot(folder: Path) -> None:
    from ..logs.log_parser import parse_log
    from ..logs.plot import plot

    logs = {stage.title: parse_log(folder / f"{stage.name}.log") for stage in STAGES}
    plot(logs, folder / "training.png", "Quick start: handwritten digits")


def table(results: Sequence[Result]) -> str:
    """Return the results as lines of text."""
    rows = [
        ("", "parameters", "ONNX file", "test errors", "accuracy", "latency/image", "trained in")
    ]
    for r in results:
        accuracy = f"{100 * (1 - r.errors / r.tested):.2f} %"
        spent = f"{r.seconds:.0f} s" + (" (reused)" if r.reused else "")
        rows.append(
            (
                r.title,
                f"{r.parameters:,}",
                f"{r.file_bytes / 1024:,.0f} KiB",
                f"{r.errors} of {r.tested}",
                accuracy,
                f"{r.latency_ms:.3f} ms",
                spent,
            )
        )
    return "\n".join(text_table(rows))


def verdict(results: Sequence[Result]) -> str:
    """Return the results in a sentence."""
    teacher, alone, distilled = results
    fewer = alone.errors - distilled.errors
    return (
        f"The student is {teacher.parameters / distilled.parameters:.0f} times smaller than the "
        f"teacher; distilled it makes {abs(fewer)} errors {'fewer' if fewer >= 0 else 'more'} than "
        "alone.\nLatency: one image at a time, one thread, ONNX Runtime."
    )

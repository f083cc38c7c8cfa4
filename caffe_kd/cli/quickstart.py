"""``quickstart``: a teacher, a student alone and the same student distilled, on digits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from ..errors import UsageError
from . import common

DESCRIPTION = """Gets the handwritten digits, trains a teacher, trains a small student alone,
distils the teacher into the same student, and prints what came out. A second run reuses what is
there."""


@common.guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = common.parser("quickstart", DESCRIPTION)
    common.flag(
        parser,
        "output",
        metavar="FOLDER",
        default="output/quickstart",
        help="where everything goes (default: output/quickstart)",
    )
    common.flag(
        parser,
        "dir",
        metavar="FOLDER",
        default="data/mnist",
        help="where the digits are or shall be (default: data/mnist)",
    )
    common.flag(parser, "no_download", action="store_true", help="leave the network alone")
    common.flag(
        parser,
        "passes",
        type=int,
        metavar="N",
        help="how often each training sees the digits (default: teacher 3, student 4)",
    )
    arguments = parser.parse_args(argv)
    if arguments.passes is not None and arguments.passes < 1:
        raise UsageError(f"-passes must be at least 1. Received: {arguments.passes}")
    from ..data.mnist import get_mnist
    from ..quickstart import run, table

    started = time.perf_counter()
    digits = get_mnist(Path(arguments.dir), allow_download=not arguments.no_download)
    folder = Path(arguments.output)
    results = run(folder, digits, arguments.passes, say)
    lines = [
        "",
        table(results),
        "",
        "One image at a time, one thread, ONNX Runtime. " + _verdict(results),
    ]
    if digits.kind != "MNIST":
        lines.append("These are the small digits of scikit-learn: the figures are not MNIST's.")
    lines += [
        f"Time: {time.perf_counter() - started:.0f} s. All files are in {folder}:",
        "  student.onnx, deploy.prototxt and student_iter_*.caffemodel (the student), training.png,",
        "  *.log, and the nets and solvers that were run.",
    ]
    print("\n".join(lines))
    return 0


def say(sentence: str) -> None:
    """Print a sentence at once, among the log lines."""
    print(f"== {sentence}", flush=True)


def _verdict(results: Sequence[object]) -> str:
    teacher, alone, distilled = results
    smaller = teacher.parameters / distilled.parameters  # type: ignore[attr-defined]
    fewer = alone.errors - distilled.errors  # type: ignore[attr-defined]
    return (
        f"The student is {smaller:.0f} times smaller than the teacher; distilled it makes "
        + (f"{fewer} errors fewer" if fewer >= 0 else f"{-fewer} errors more")
        + " than alone."
    )

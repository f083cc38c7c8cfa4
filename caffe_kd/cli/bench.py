"""``bench``: how fast training, distilling, starting and loading are, next to plain PyTorch.

What is compared runs in one process, in turns, for several rounds. A ratio is the median over the
rounds of "other / ours": 2 means that ours takes half the time. Because of the turns, other load on
the machine hardly changes the ratios; it does change the times.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..core.errors import CaffeKDError, UsageError, did_you_mean
from ..core.files import write_atomically
from ..proto import caffe_pb2 as pb
from ..proto import text
from . import flags
from .command_parser import CommandParser
from .guard import guarded

SUMMARY = "measure speed against plain PyTorch"
GROUP = "check"
EXAMPLE = "-only lenet -rounds 5"
DESCRIPTION = """Measures the speed of training, distilling, starting and loading on this machine,
next to plain PyTorch where there is something to compare with."""

MNIST_SAMPLES = 60_000
Times = dict[str, list[float]]


@dataclass
class Row:
    """One line of the table.

    Attributes:
        measure: the name that ``-only`` takes.
        what: what was timed.
        seconds: the median over the rounds.
        rounds: the seconds of each round.
        compared: what the ratio compares with.
        ratio: how many times as long that takes; None: nothing is compared.
        wanted: what the ratio or the time should be.
    """

    measure: str
    what: str
    seconds: float
    rounds: list[float]
    compared: str = ""
    ratio: float | None = None
    wanted: str = ""

    def __str__(self) -> str:
        ratio = "" if self.ratio is None else f"{self.ratio:.2f} x {self.compared}"
        wanted = f"(wanted: {self.wanted})" if self.wanted else ""
        line = f"{self.measure:12s} {self.what:32s} {1000 * self.seconds:9.2f} ms  {ratio} {wanted}"
        return line.rstrip()


def row(
    measure: str,
    what: str,
    times: list[float],
    wanted: str = "",
    compared: tuple[str, list[float]] | None = None,
) -> Row:
    """Return a line; ``compared`` names another thing and gives its times, round by round."""
    made = Row(measure, what, statistics.median(times), times, wanted=wanted)
    if compared is not None:
        made.compared, others = compared
        made.ratio = statistics.median(o / t for o, t in zip(others, times, strict=True))
    return made


def timed(job: Callable[[], object]) -> float:
    """Return the seconds a job takes."""
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


@dataclass
class Bench:
    """Where and how long to measure; a round of training passes over ``iterations`` batches."""

    folder: Path
    rounds: int
    iterations: int

    def in_turns(self, **jobs: Callable[[], object]) -> Times:
        """Run the jobs in turns, once to warm up and then each round.

        Returns:
            The seconds by name; the first of each list are the warm-up's.
        """
        times: Times = {name: [] for name in jobs}
        for _ in range(self.rounds + 1):
            for name, job in jobs.items():
                times[name].append(timed(job))
        return times


# ---- the measures


def lenet(bench: Bench) -> list[Row]:
    """LeNet: our solver on IDX files against a plain loop on float tensors in memory."""
    from . import bench_contenders as by

    steps, samples = bench.iterations, bench.iterations * by.BATCH
    ours = by.make_solver(bench.folder, by.LENET, None, samples)
    plain = by.Script(by.LENET, samples)
    times = bench.in_turns(ours=lambda: ours.step(steps), plain=plain.train)
    return training_rows("lenet", times, steps, {"plain": ("plain PyTorch loop", ">= 1.5")})


def distil_lenet(bench: Bench) -> list[Row]:
    """LeNet as the teacher of a LeNet with less than half the channels."""
    from . import bench_contenders as by

    return distil(bench, "distil_lenet", by.SMALL_LENET, by.LENET)


def distil_mlp(bench: Bench) -> list[Row]:
    """1200-1200 as the teacher of 800-800, as in the paper that named distillation."""
    from . import bench_contenders as by

    return distil(bench, "distil_mlp", by.MLP_800, by.MLP_1200)


def distil(bench: Bench, measure: str, student: str, teacher: str) -> list[Row]:
    """Our solver against the usual script, and against the best the student alone can do."""
    from . import bench_contenders as by

    steps, samples = bench.iterations, bench.iterations * by.BATCH
    ours = by.make_solver(bench.folder, student, teacher, samples)
    usual, teacher_module = by.Script(student, samples), by.module(teacher).eval()
    alone = by.Script(student, by.BATCH, fast=True)
    times = bench.in_turns(
        ours=lambda: ours.step(steps),
        usual=lambda: usual.distil(teacher_module),
        alone=lambda: alone.repeat(steps),
    )
    compared = {"usual": ("usual script", ">= 2.5"), "alone": ("student on one batch", ">= 0.9")}
    return training_rows(measure, times, steps, compared)


def training_rows(
    measure: str, times: Times, steps: int, compared: dict[str, tuple[str, str]]
) -> list[Row]:
    """Return what an iteration takes, with a line of ours for each thing compared."""
    each = {name: [t / steps for t in seconds] for name, seconds in times.items()}
    rows = [row(measure, "our solver, first pass", each["ours"][:1])]
    for name, (what, wanted) in compared.items():
        others = each[name][1:]
        rows.append(row(measure, what, others))
        rows.append(row(measure, "our solver", each["ours"][1:], wanted, (what, others)))
    return rows


_START = """
import json, sys, time
start = time.perf_counter()
import torch
loaded = time.perf_counter()
from caffe_kd.cli.train import main
status = main(["-solver", sys.argv[1], "-max_iter", "1", "-no_progress"])
print(json.dumps([loaded - start, time.perf_counter() - loaded]))
sys.exit(status)
"""


def start(bench: Bench, samples: int = MNIST_SAMPLES) -> list[Row]:
    """New processes: to the help, to torch, and from there through one iteration."""
    from . import bench_contenders as by

    solver = by.write_solver(bench.folder, by.SMALL_LENET, by.LENET, samples)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

    def python(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CaffeKDError(f"the training that was to be timed failed: {done.stderr}")
        return done.stdout

    times: Times = {"help": [], "torch": [], "first": []}
    for _ in range(bench.rounds + 1):
        times["help"].append(timed(lambda: python("-m", "caffe_kd", "train", "-h")))
        torch, first = json.loads(python("-c", _START, str(solver)).splitlines()[-1])
        times["torch"].append(torch)
        times["first"].append(first)
    return [
        row("start", "train -h", times["help"][1:]),
        row("start", "import torch", times["torch"][1:]),
        row("start", "from there through an iteration", times["first"][1:], "< 2000 ms"),
    ]


def layers(bench: Bench, count: int = 1000) -> list[Row]:
    """Parse and build a net of many layers."""
    from ..net import Net

    net = pb.NetParameter(name="Deep")
    data = net.layer.add(name="data", type="Input", top=["data"])
    data.input_param.shape.add(dim=[1, 16, 8, 8])
    bottom = "data"
    for index in range(1, count):
        kind = ("Convolution", "BatchNorm", "Scale", "ReLU")[(index - 1) % 4]
        top = f"conv{index}" if kind == "Convolution" else bottom
        layer = net.layer.add(name=f"{kind}{index}", type=kind, bottom=[bottom], top=[top])
        if kind == "Convolution":
            text.parse("num_output: 16 pad: 1 kernel_size: 3", layer.convolution_param)
            layer.convolution_param.weight_filler.type = "msra"
        bottom = top
    source = text.to_text(net)
    times = bench.in_turns(
        parse=lambda: text.parse(source, pb.NetParameter()),
        both=lambda: Net(text.parse(source, pb.NetParameter()), pb.TRAIN),
    )
    return [
        row("layers", f"parse {count} layers", times["parse"][1:]),
        row("layers", f"parse and build {count} layers", times["both"][1:], "< 2000 ms"),
    ]


def weights(bench: Bench, megabytes: int = 250) -> list[Row]:
    """Load a large caffemodel into a net, against reading the file."""
    from ..net import Net
    from ..proto.binary import write_weights

    blobs, inputs = 8, 2000
    large = pb.NetParameter(name="Large")
    data = large.layer.add(name="data", type="Input", top=["data"])
    data.input_param.shape.add(dim=[1, inputs])
    for index in range(blobs):
        name = f"ip{index}"
        layer = large.layer.add(name=name, type="InnerProduct", bottom=["data"], top=[name])
        layer.inner_product_param.num_output = megabytes * 10**6 // (4 * blobs * inputs)
        layer.inner_product_param.weight_filler.type = "xavier"
    net, path = Net(large), bench.folder / "large.caffemodel"
    write_weights(path, net.param, net.weights())
    times = bench.in_turns(read=path.read_bytes, ours=lambda: net.load_weights(path))
    read, ours = times["read"][1:], times["ours"][1:]
    return [
        row("weights", f"read a file of {megabytes} MB", read),
        row("weights", "load it into a net", ours, "about 1", ("reading the file", read)),
    ]


MEASURES: dict[str, Callable[[Bench], list[Row]]] = {
    measure.__name__: measure
    for measure in (lenet, distil_lenet, distil_mlp, start, layers, weights)
}

# ---- the command


def machine() -> dict[str, str | int]:
    """Return what the figures depend on."""
    import torch

    model, known = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if known.is_file():
        lines = known.read_text(encoding="utf-8").splitlines()
        model = next((x.split(": ", 1)[-1] for x in lines if x.startswith("model name")), model)
    return {
        "cpu": model,
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    for flag in ("rounds", "iterations"):
        if getattr(arguments, flag) < 1:
            raise UsageError(f"-{flag} must be at least 1. Received: {getattr(arguments, flag)}")
    names = flags.comma_list(arguments.only) or list(MEASURES)
    for name in names:
        if name not in MEASURES:
            raise UsageError(
                f"-only {name}: there is no such measure.{did_you_mean(name, MEASURES)} "
                f"Measures: {', '.join(MEASURES)}"
            )
    about, rows = machine(), []
    print(", ".join(f"{what} {value}" for what, value in about.items()))
    print(f"medians of {arguments.rounds} rounds; of training, the time of an iteration")
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            measured = MEASURES[name](Bench(Path(folder), arguments.rounds, arguments.iterations))
        print(*measured, sep="\n", flush=True)
        rows += measured
    if arguments.json:
        figures = {"machine": about, "rows": [asdict(row) for row in rows]}
        write_atomically(Path(arguments.json), json.dumps(figures, indent=1).encode())
    return 0


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("bench", DESCRIPTION, EXAMPLE)
    flags.add(
        parser,
        "only",
        metavar="NAMES",
        help=f"some of {', '.join(MEASURES)}, separated by commas (default: all)",
    )
    flags.add(
        parser, "rounds", type=int, default=21, help="how many, after a warm-up (default: 21)"
    )
    flags.add(
        parser, "iterations", type=int, default=20, help="of training in a round (default: 20)"
    )
    flags.add(parser, "json", metavar="FILE", help="write the times of every round there")
    return parser

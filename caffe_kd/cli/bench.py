"""``tools/bench.py``: how fast training, distilling, starting and loading are, and next to what.

What is compared runs in one process, in turns, for several rounds. A ratio is the median over the
rounds of "other / ours": 2 says that ours takes half the time. Turns cancel what else the machine
is doing; the times themselves do not.
"""

from __future__ import annotations

import io
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
from typing import TYPE_CHECKING, Any

from ..errors import CaffeKDError, UsageError, did_you_mean
from ..files import write_atomically
from . import common

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..solver.solver import Solver

DESCRIPTION = """Measures the speed of training, distilling, starting and loading on this machine,
next to plain PyTorch where there is something to compare with."""

BATCH = 64
TEMPERATURE = 4.0
MNIST_RECORDS = 60_000
SETTINGS = """
base_lr: 0.01 momentum: 0.9 weight_decay: 0.0005 lr_policy: "inv" gamma: 0.0001 power: 0.75
max_iter: 1000000 snapshot_after_train: false random_seed: 1
"""
Job = Callable[[], object]


@dataclass
class Row:
    """One line of the table.

    Attributes:
        measure: the name that ``-only`` takes.
        what: what was timed.
        seconds: the median over the rounds.
        rounds: the seconds of each round.
        ratio: how many times as long as this the compared takes; None: nothing is compared.
        compared: what the ratio compares with.
        wanted: what we want the ratio or time to be.
    """

    measure: str
    what: str
    seconds: float
    rounds: list[float]
    ratio: float | None = None
    compared: str = ""
    wanted: str = ""


@dataclass
class Bench:
    """Where and how long to measure.

    A round of training is one pass over ``iterations`` batches.
    """

    folder: Path
    rounds: int
    iterations: int

    def in_turns(self, **jobs: Job) -> dict[str, list[float]]:
        """Run each job once to warm up, then all in turns; return their seconds by round.

        The first number is the warm-up's.
        """
        times: dict[str, list[float]] = {name: [] for name in jobs}
        for _ in range(self.rounds + 1):
            for name, job in jobs.items():
                times[name].append(timed(job))
        return times

    def digits(self, records: int) -> Path:
        """Write made-up digits as IDX files; return the images' path."""
        import numpy as np

        from ..data.idx import write_idx

        path = self.folder / f"{records}-images-idx3-ubyte"
        if not path.exists():
            rng = np.random.default_rng(0)
            write_idx(path, rng.integers(0, 256, (records, 28, 28), np.uint8))
            labels = rng.integers(0, 10, records).astype(np.uint8)
            write_idx(self.folder / f"{records}-labels-idx1-ubyte", labels)
        return path

    def net(self, name: str, net: Any, records: int) -> Path:
        """Write a net that reads ``records`` digits; return its path."""
        from ..proto import text

        for layer in net.layer:
            if layer.type == "Data":
                layer.data_param.source = str(self.digits(records))
        path = self.folder / f"{name}_{records}.prototxt"
        text.write(path, net)
        return path

    def solver(self, name: str, student: Any, teacher: Any, records: int, more: str = "") -> Path:
        """Write a solver that trains a net, distilling from a teacher if there is one."""
        from .. import examples
        from ..net import load_net
        from ..proto import caffe_pb2 as pb
        from ..proto.binary import write_weights

        lines = f'net: "{self.net(f"{name}_student", student, records)}"'
        lines += f'snapshot_prefix: "{self.folder / name}" {SETTINGS} {more}'
        if teacher is not None:
            path = self.net(f"{name}_teacher", teacher, records)
            net = load_net(path, pb.TRAIN)
            weights = self.folder / f"{name}_teacher.caffemodel"
            write_weights(weights, net.param, net.weights())
            lines += f'teacher {{ net: "{path}" weights: "{weights}" }}'
            lines += f'distiller_net: "{examples.folder("mnist") / "distiller.prototxt"}"'
        file = self.folder / f"{name}_solver.prototxt"
        file.write_text(lines, encoding="utf-8")
        return file


def row(
    measure: str,
    what: str,
    times: list[float],
    wanted: str = "",
    compared: tuple[str, list[float]] | None = None,
) -> Row:
    """Return a line; ``compared`` names another thing and gives its times, round by round."""
    line = Row(measure, what, statistics.median(times), times, wanted=wanted)
    if compared is not None:
        line.compared, others = compared
        line.ratio = statistics.median(o / t for o, t in zip(others, times, strict=True))
    return line


def timed(job: Job) -> float:
    """Return the seconds a job takes."""
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def example(name: str) -> Any:
    """Return a net of ``prototxt/mnist``."""
    from .. import examples
    from ..proto import caffe_pb2 as pb
    from ..proto import text

    return text.read(examples.folder("mnist") / f"{name}_train_test.prototxt", pb.NetParameter())


def mlp(hidden: int) -> Any:
    """Return a net on digits with two hidden layers."""
    from ..proto import caffe_pb2 as pb
    from ..proto import text

    def layers(name: str, bottom: str, units: int) -> str:
        return (
            f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" '
            f"inner_product_param {{ num_output: {units} "
            'weight_filler { type: "xavier" } } }\n'
        )

    def relu(name: str) -> str:
        return f'layer {{ name: "relu_{name}" type: "ReLU" bottom: "{name}" top: "{name}" }}\n'

    net = text.parse(
        f'name: "MLP{hidden}"\n'
        + layers("hidden1", "data", hidden)
        + relu("hidden1")
        + layers("hidden2", "hidden1", hidden)
        + relu("hidden2")
        + layers("ip2", "hidden2", 10),
        pb.NetParameter(),
    )
    whole, lenet = pb.NetParameter(name=net.name), example("lenet").layer
    whole.layer.extend(layer for layer in lenet if layer.type == "Data")
    whole.layer.extend(net.layer)
    whole.layer.extend(layer for layer in lenet if layer.type == "SoftmaxWithLoss")
    return whole


def open_solver(path: Path) -> Solver:
    """Build a solver whose log nobody reads."""
    from ..log import Log
    from ..solver.plan import read_plan
    from ..solver.solver import Solver

    return Solver(read_plan(path), Log(stream=io.StringIO(), progress=False))


# ---- plain PyTorch, as people write it


def torch_mlp(hidden: int) -> nn.Module:
    """Return a fully connected net of two hidden layers."""
    from torch import nn

    return nn.Sequential(
        nn.Flatten(),
        *(nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()),
        nn.Linear(hidden, 10),
    )


def torch_lenet() -> nn.Module:
    """Return the net of ``lenet_train_test.prototxt``."""
    from torch import nn

    return nn.Sequential(
        *(nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10)),
    )


def torch_student() -> nn.Module:
    """Return the net of ``student_train_test.prototxt``."""
    from torch import nn

    return nn.Sequential(
        *(nn.Conv2d(1, 8, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 10)),
    )


def distillation_loss(logits: Tensor, soft: Tensor, labels: Tensor) -> Tensor:
    """Return cross entropy plus T^2 KL, as student and ``distiller.prototxt`` add them."""
    from torch.nn import functional as F

    p, q = (F.log_softmax(z / TEMPERATURE, 1) for z in (logits, soft))
    divergence = F.kl_div(p, q, reduction="batchmean", log_target=True)
    return F.cross_entropy(logits, labels) + TEMPERATURE**2 * divergence


class Script:
    """A net with its optimizer and made-up digits as float tensors in memory.

    Args:
        net: the net to train.
        records: how many digits.
        fast: lay out memory and update as fast as plain PyTorch can, as few scripts do.
    """

    def __init__(self, net: nn.Module, records: int, fast: bool = False) -> None:
        import torch

        generator = torch.Generator().manual_seed(0)
        self.images = torch.rand(records, 1, 28, 28, generator=generator)
        self.labels = torch.randint(10, (records,), generator=generator)
        self.net = net.to(memory_format=torch.channels_last) if fast else net  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(
            net.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0005, fused=fast or None
        )

    def learn(self, loss: Callable[[Tensor], Tensor], images: Tensor) -> None:
        """Take one step: zero gradients, forward, backward, update."""
        self.optimizer.zero_grad()
        loss(self.net(images)).backward()
        self.optimizer.step()

    def train(self) -> None:
        """Pass over the digits."""
        from torch.nn import functional as F

        for images, labels in zip(self.images.split(BATCH), self.labels.split(BATCH), strict=True):
            self.learn(lambda z, y=labels: F.cross_entropy(z, y), images)

    def distil(self, teacher: nn.Module) -> None:
        """Pass over the digits through a DataLoader, asking the teacher in each step."""
        import torch
        from torch.utils.data import DataLoader, TensorDataset

        data = TensorDataset(self.images, self.labels)
        teacher.eval()
        for images, labels in DataLoader(data, BATCH, shuffle=True):
            with torch.no_grad():
                soft = teacher(images)
            self.learn(lambda z, t=soft, y=labels: distillation_loss(z, t, y), images)

    def repeat(self, steps: int) -> None:
        """Learn one batch again and again, with fixed soft targets: no data, no teacher."""
        images, labels, soft = (
            self.images[:BATCH],
            self.labels[:BATCH],
            self.images[:BATCH, 0, 0, :10],
        )
        for _ in range(steps):
            self.learn(lambda z: distillation_loss(z, soft, labels), images)


# ---- the measures


def lenet(bench: Bench) -> list[Row]:
    """LeNet: our solver on IDX files against a plain loop on float tensors in memory."""
    steps = bench.iterations
    ours = open_solver(bench.solver("lenet", example("lenet"), None, steps * BATCH))
    plain = Script(torch_lenet(), steps * BATCH)
    times = bench.in_turns(ours=lambda: ours.step(steps), plain=plain.train)
    return training_rows("lenet", times, steps, {"plain": ("plain PyTorch loop", ">= 1.5")})


def distil(
    bench: Bench, measure: str, nets: Sequence[Any], modules: Sequence[nn.Module]
) -> list[Row]:
    """Distil: our solver against the usual script, and against the student alone.

    Args:
        bench: where and how long.
        measure: its name.
        nets: our student and teacher.
        modules: student, student again and teacher in PyTorch.
    """
    steps = bench.iterations
    ours = open_solver(bench.solver(measure, *nets, steps * BATCH))
    usual, bare = Script(modules[0], steps * BATCH), Script(modules[1], BATCH, fast=True)
    times = bench.in_turns(
        ours=lambda: ours.step(steps),
        usual=lambda: usual.distil(modules[2]),
        bare=lambda: bare.repeat(steps),
    )
    compared = {
        "usual": ("usual script", ">= 2.5"),
        "bare": ("student alone, fixed batch", ">= 0.9"),
    }
    return training_rows(measure, times, steps, compared)


def training_rows(
    measure: str, times: dict[str, list[float]], steps: int, compared: dict[str, tuple[str, str]]
) -> list[Row]:
    """Return what an iteration takes, with a line of ours for each thing compared."""
    each = {name: [t / steps for t in seconds] for name, seconds in times.items()}
    rows = [Row(measure, "our solver, first pass", each["ours"][0], each["ours"][:1])]
    rounds = {name: seconds[1:] for name, seconds in each.items()}
    for name, (what, wanted) in compared.items():
        rows.append(row(measure, what, rounds[name]))
        rows.append(row(measure, "our solver", rounds["ours"], wanted, (what, rounds[name])))
    return rows


def lenet_pair(bench: Bench) -> list[Row]:
    """LeNet as the teacher of the student in ``prototxt/mnist``."""
    nets = example("student"), example("lenet")
    return distil(bench, "distil_lenet", nets, (torch_student(), torch_student(), torch_lenet()))


def mlp_pair(bench: Bench) -> list[Row]:
    """784-1200-1200-10 as the teacher of 784-800-800-10, as in the paper on distillation."""
    nets, modules = (mlp(800), mlp(1200)), (torch_mlp(800), torch_mlp(800), torch_mlp(1200))
    return distil(bench, "distil_mlp", nets, modules)


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


def start(bench: Bench, records: int = MNIST_RECORDS) -> list[Row]:
    """From a fresh process: to the help, to torch, and from there through one iteration."""
    solver = bench.solver("start", example("student"), example("lenet"), records)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

    def python(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CaffeKDError(f"{' '.join(arguments[:3])} failed: {done.stderr}")
        return done.stdout

    python("-c", _START, str(solver))  # fills the file cache
    helps, torches, firsts = [], [], []
    for _ in range(bench.rounds):
        helps.append(timed(lambda: python("-m", "caffe_kd", "train", "-h")))
        loaded, first = json.loads(python("-c", _START, str(solver)).splitlines()[-1])
        torches.append(loaded)
        firsts.append(first)
    return [
        row("start", "train -h, a process", helps),
        row("start", "import torch", torches),
        row("start", "then to the end of one iteration", firsts, "< 2 s"),
    ]


def layers(bench: Bench, count: int = 1000) -> list[Row]:
    """Parse and build a net of many layers: convolution, normalisation, scale, rectifier."""
    from ..net import Net
    from ..proto import caffe_pb2 as pb
    from ..proto import text

    details = {
        "Convolution": "num_output: 16 pad: 1 kernel_size: 3 weight_filler { type: 'msra' }",
        "BatchNorm": "use_global_stats: false",
        "Scale": "bias_term: true",
        "ReLU": "negative_slope: 0",
    }
    lines = [
        "layer { name: 'x' type: 'Input' top: 'x' input_param { shape { dim: [1, 16, 8, 8] } } }"
    ]
    bottom = "x"
    for index in range(count - 1):
        kind = list(details)[index % 4]
        top = f"{kind}{index}" if kind == "Convolution" else bottom
        param = {"Convolution": "convolution", "BatchNorm": "batch_norm"}.get(kind, kind.lower())
        lines.append(
            f"layer {{\n name: '{kind}{index}'\n type: '{kind}'\n bottom: '{bottom}'\n top: '{top}'"
            f"\n {param}_param {{ {details[kind]} }}\n}}"
        )
        bottom = top
    source = "\n".join(lines)
    times = bench.in_turns(
        parse=lambda: text.parse(source, pb.NetParameter()),
        both=lambda: Net(text.parse(source, pb.NetParameter()), pb.TRAIN),
    )
    return [
        row("layers", f"parse {count} layers", times["parse"][1:]),
        row("layers", f"parse and build {count} layers", times["both"][1:], "< 2 s"),
    ]


def weights(bench: Bench, megabytes: int = 250) -> list[Row]:
    """Load a large caffemodel into a net, against reading the file."""
    from ..net import Net
    from ..proto import caffe_pb2 as pb
    from ..proto import text
    from ..proto.binary import write_weights

    inputs = 2048
    outputs = megabytes * 10**6 // 4 // 8 // inputs
    lines = f"layer {{ name: 'x' type: 'Input' top: 'x' input_param {{ shape {{ dim: [1, {inputs}] }} }} }}"
    for index in range(8):
        lines += (
            f"layer {{ name: 'ip{index}' type: 'InnerProduct' bottom: 'x' top: 'ip{index}' "
            f"inner_product_param {{ num_output: {outputs} }} }}"
        )
    net = Net(text.parse(lines, pb.NetParameter()))
    path = bench.folder / "large.caffemodel"
    write_weights(path, net.param, net.weights())
    times = bench.in_turns(ours=lambda: net.load_weights(path), read=path.read_bytes)
    path.unlink()
    read = times["read"][1:]
    return [
        row("weights", f"read {megabytes} MB", read),
        row("weights", "load them into a net", times["ours"][1:], "about 1", ("reading", read)),
    ]


MEASURES: dict[str, Callable[[Bench], list[Row]]] = {
    "lenet": lenet,
    "distil_lenet": lenet_pair,
    "distil_mlp": mlp_pair,
    "start": start,
    "layers": layers,
    "weights": weights,
}


# ---- the command


def machine() -> dict[str, str | int]:
    """Return what the figures depend on."""
    import torch

    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), model)
    return {
        "cpu": model,
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }


def line(row: Row) -> str:
    """Return a row of the table."""
    milliseconds = f"{1000 * row.seconds:.2f}"
    ratio = "" if row.ratio is None else f"{row.ratio:.2f} x {row.compared}"
    wanted = f"  (wanted: {row.wanted})" if row.wanted else ""
    return f"{row.measure:13s} {row.what:32s} {milliseconds:>10s} ms  {ratio}{wanted}".rstrip()


@common.guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = common.parser("bench", DESCRIPTION)
    common.flag(parser, "only", metavar="NAMES", help=f"of {', '.join(MEASURES)}; by commas")
    common.flag(parser, "rounds", type=int, default=5, help="how often, after a warm-up (5)")
    common.flag(parser, "iterations", type=int, default=100, help="iterations in a round (100)")
    common.flag(parser, "json", metavar="FILE", help="write the figures of every round there")
    arguments = parser.parse_args(argv)
    names = common.comma_list(arguments.only) or list(MEASURES)
    for name in names:
        if name not in MEASURES:
            raise UsageError(
                f"-only {name}: no such measure.{did_you_mean(name, MEASURES)} "
                f"There are: {', '.join(MEASURES)}"
            )
    for flag in ("rounds", "iterations"):
        if getattr(arguments, flag) < 1:
            raise UsageError(f"-{flag} must be at least 1. Received: {getattr(arguments, flag)}")
    about = machine()
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    print(f"medians of {arguments.rounds} rounds; training: an iteration of {BATCH} records")
    rows: list[Row] = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            measured = MEASURES[name](Bench(Path(folder), arguments.rounds, arguments.iterations))
        print("\n".join(map(line, measured)), flush=True)
        rows += measured
    if arguments.json:
        figures = {"machine": about, "rows": [asdict(row) for row in rows]}
        write_atomically(Path(arguments.json), json.dumps(figures, indent=1).encode())
    return 0

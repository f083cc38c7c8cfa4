"""Every file under prototxt/ parses, builds in both phases, and trains two iterations."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from caffe_kd.cli import export_onnx
from caffe_kd.cli.convert_mnist_data import convert
from caffe_kd.cli.train import main
from caffe_kd.data.backends.idx import write_idx
from caffe_kd.data.cifar10 import get_cifar10
from caffe_kd.net import load_net, read_net
from caffe_kd.proto import bundle, text
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto.binary import read_weights
from caffe_kd.proto.filter import filter_net

EXAMPLES = Path(__file__).parents[1] / "prototxt"
FILES = sorted(path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*.prototxt"))
SOLVERS = [name for name in FILES if Path(name).stem.endswith("solver")]
NETS = [name for name in FILES if name not in SOLVERS]

TO_TWO_ITERATIONS = {
    r"_iter_\d+\.": "_iter_2.",
    r"\btest_iter: \d+": "test_iter: 1",
    r"\btest_interval: \d+": "test_interval: 2",
    r"\bfreeze_range_iter: \d+": "freeze_range_iter: 1",
    r"\b(first|count): 500\b": r"\1: 50",  # of the few digits there are
}


class Examples:
    """A copy of the examples on a few random digits, for two iterations."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trained: set[str] = set()
        get_cifar10(folder / "data/cifar10", (), allow_download=False)
        generator = np.random.default_rng(0)
        for name in ("train", "t10k"):
            images = generator.integers(0, 256, (100, 28, 28), np.uint8)
            write_idx(folder / f"data/mnist/{name}-images-idx3-ubyte", images)
            labels = generator.integers(0, 10, 100).astype(np.uint8)
            write_idx(folder / f"data/mnist/{name}-labels-idx1-ubyte", labels)
        for name in FILES:
            content = (EXAMPLES / name).read_text()
            for pattern, new in TO_TWO_ITERATIONS.items():
                content = re.sub(pattern, new, content)
            for database in re.findall(r'"((?!data/cifar10)[^"]+_lmdb)"', content):
                digits = [
                    folder / f"data/mnist/t10k-{k}-ubyte" for k in ("images-idx3", "labels-idx1")
                ]
                convert(*digits, folder / database, overwrite=True)
            copy = folder / "prototxt" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(content)

    def path(self, name: str) -> Path:
        return self.folder / "prototxt" / name

    def solver(self, name: str):
        return text.read(self.path(name), pb.SolverParameter())

    def train(self, name: str) -> Path:
        """Train by a solver, first by those that make what it needs; return its weights."""
        solver = self.solver(name)
        weights = f"{solver.snapshot_prefix}_iter_2.caffemodel"
        if name not in self.trained:
            for teacher in solver.teacher:
                if teacher.net.endswith(".onnx"):
                    self.export(Path(teacher.net), Path(name).parent)
                elif not teacher.HasField("ema"):
                    users = (x for x in SOLVERS if x != name)
                    (maker,) = (x for x in users if self.makes(x) == teacher.weights)
                    self.train(maker)
            for start in solver.weights:
                self.train(next(x for x in SOLVERS if self.makes(x) == start))
            command = ["-solver", str(self.path(name)), "-max_iter", "2", "-no_progress"]
            assert main(command) == 0
            self.trained.add(name)
        return self.folder / weights

    def export(self, model: Path, folder: Path) -> None:
        """Export a folder's teacher to ONNX, as the comment in its user's solver says."""
        weights = self.train((folder / f"{model.stem}_solver.prototxt").as_posix())
        net = self.path((folder / f"{model.stem}_train_test.prototxt").as_posix())
        words = ["-model", str(net), "-weights", str(weights), "-output", str(model)]
        assert export_onnx.main(words) == 0

    def makes(self, name: str) -> str:
        return f"{self.solver(name).snapshot_prefix}_iter_2.caffemodel"


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # the examples name their data from the folder above prototxt/
        yield Examples(folder)


@pytest.mark.parametrize("name", SOLVERS)
def test_solver_trains_two_iterations_and_tests(examples, name):
    path = examples.train(name)
    weights = [blob for layer in read_weights(path) for blob in layer.blobs]
    assert weights
    assert all(np.isfinite(blob).all() for blob in weights)
    (log,) = path.parent.glob(f"{path.name.removesuffix('_iter_2.caffemodel')}_2*.log")
    assert "Iteration 2, Testing net (#0)" in log.read_text()


@pytest.mark.parametrize("name", NETS)
def test_net_builds_in_both_phases_or_is_part_of_a_solvers(examples, name):
    found = bundle.read(examples.path(name))
    if len(found.nets) == 1 and not is_distiller(name, found.net("")):
        net = read_net(examples.path(name))  # some have data for tests alone
        phases = [p for p in (pb.TRAIN, pb.TEST) if filter_net(net, pb.NetState(phase=p)).layer]
        assert phases
        for phase in phases:
            assert load_net(examples.path(name), phase).nodes
        return
    solvers = [examples.solver(solver) for solver in SOLVERS if same_folder(solver, name)]
    assert any(Path(name).name in (solver.net, solver.distiller_net) for solver in solvers)


def is_distiller(name, net) -> bool:
    if name.endswith("distiller.prototxt"):
        return True
    return any("/" in bottom for layer in net.layer for bottom in layer.bottom)


def same_folder(one: str, other: str) -> bool:
    return Path(one).parent == Path(other).parent


def test_examples_are_there():
    assert len(SOLVERS) >= 5
    assert len(NETS) >= 6

"""One command from a solver to a small int8 model, and going on where it was stopped."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from caffe_kd.cli.compress import main
from caffe_kd.cli.train import main as train
from caffe_kd.core.errors import Stopped
from caffe_kd.data.backends.idx import IMAGES, LABELS, read_idx, read_pair, write_idx
from caffe_kd.net import load_net, read_net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.recipes.compress import compress as stages
from caffe_kd.recipes.compress.compress import INT8_ONNX
from tests.cli.small import SAMPLES, write_digits

SHARED = Path(__file__).parents[3] / "shared"
OF_2014 = SHARED / "models" / "lenet-v1-everpeace-2014"
MNIST = SHARED / "data" / "mnist"
TESTED = SAMPLES["t10k"]
DATA = """
layer {{ name: "digits" type: "Data" top: "data" top: "label" include {{ phase: {phase} }}
  transform_param {{ scale: 0.00390625 }}
  data_param {{ source: "{name}-images-idx3-ubyte" backend: IDX batch_size: {batch} }} }}
"""
BATCH_NORM_NET = """
layer { name: "c1" type: "Convolution" bottom: "data" top: "c1" convolution_param {
  num_output: 8 kernel_size: 5 stride: 2 bias_term: false weight_filler { type: "msra" } } }
layer { name: "c1_bn" type: "BatchNorm" bottom: "c1" top: "c1"
  batch_norm_param { moving_average_fraction: 0.8 } }
layer { name: "c1_sc" type: "Scale" bottom: "c1" top: "c1" scale_param { bias_term: true } }
layer { name: "r1" type: "ReLU" bottom: "c1" top: "c1" }
layer { name: "c2" type: "Convolution" bottom: "c1" top: "c2" convolution_param {
  num_output: 8 kernel_size: 3 pad: 1 bias_term: false weight_filler { type: "msra" } } }
layer { name: "c2_bn" type: "BatchNorm" bottom: "c2" top: "c2"
  batch_norm_param { moving_average_fraction: 0.8 } }
layer { name: "c2_sc" type: "Scale" bottom: "c2" top: "c2" scale_param { bias_term: true } }
layer { name: "sum" type: "Eltwise" bottom: "c1" bottom: "c2" top: "sum" }
layer { name: "r2" type: "ReLU" bottom: "sum" top: "sum" }
layer { name: "pool" type: "Pooling" bottom: "sum" top: "pool"
  pooling_param { pool: AVE kernel_size: 4 stride: 4 } }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip"
  inner_product_param { num_output: 10 weight_filler { type: "msra" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy"
  include { phase: TEST } }
"""
LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" %s }'
NET = (
    DATA.format(phase="TRAIN", name="train", batch=16)
    + DATA.format(phase="TEST", name="t10k", batch=20)
    + BATCH_NORM_NET
)
DISTILLER = """layer { name: "kd" type: "DistillingLoss" bottom: "ip" bottom: "teacher/ip"
  bottom: "label" top: "kd" include { phase: TRAIN } }"""
SOLVER = """net: "net.prototxt" test_iter: 2 test_interval: 30 test_initialization: false
base_lr: 0.05 momentum: 0.9 lr_policy: "multistep" gamma: 0.1 stepvalue: 40 max_iter: 60
display: 20 snapshot_prefix: "trained" random_seed: 1
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with digits, a net of BatchNorm with a sum, its solver and its weights."""
    folder = tmp_path_factory.mktemp("compress")
    write_digits(folder)
    (folder / "net.prototxt").write_text(NET + LOSS % "")
    (folder / "student.prototxt").write_text(NET + LOSS % 'exclude { stage: "distil" }')
    (folder / "distiller.prototxt").write_text(DISTILLER)
    (folder / "solver.prototxt").write_text(SOLVER)
    (folder / "kd_solver.prototxt").write_text(
        SOLVER.replace("net.prototxt", "student.prototxt").replace('"trained"', '"kd"')
        + """teacher { net: "net.prototxt" weights: "trained_iter_60.caffemodel" }
        distiller_net: "distiller.prototxt" train_state { stage: "distil" }"""
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert train(["-solver", "solver.prototxt", "-no_progress"]) == 0
    return folder


@pytest.fixture
def here(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    return trained


@dataclass
class Outcome:
    """What a run printed: its lines, and each row's cells by its net's name."""

    lines: list[str]
    rows: dict[str, list[str]]

    def number(self, net: str, column: int) -> int:
        return int(self.rows[net][column].split(" ")[0].replace(",", ""))


MACS, BYTES, ERRORS = 1, 2, 3
WEIGHTS = ["-weights", "trained_iter_60.caffemodel"]


def run(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> Outcome:
    capsys.readouterr()
    status = main(["-output", str(folder), *words])
    printed = capsys.readouterr()
    assert status == 0, printed.out + printed.err
    lines = printed.out.splitlines()
    rows = {}
    for line in lines:
        cells = re.split(r"  +", line.strip())
        if len(cells) == 8 and cells[0] != "net":
            rows[cells[0]] = cells[1:]
        elif len(cells) == 8 and cells[1] != "parameters":
            rows["net"] = cells[1:]
    return Outcome(lines, rows)


def outputs(model: Path, folder: Path) -> np.ndarray:
    images, _ = read_pair(folder / "t10k-images-idx3-ubyte", folder / "t10k-labels-idx1-ubyte")
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    pixels = images[:, None].astype(np.float32) / np.float32(256)
    (values,) = session.run(["ip"], {"data": pixels})
    return values


def labels(folder: Path) -> np.ndarray:
    return read_pair(folder / "t10k-images-idx3-ubyte", folder / "t10k-labels-idx1-ubyte")[1]


def test_prune_distil_fold_train_the_rounding_and_run_it(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run(
        capsys, tmp_path, "-solver", "solver.prototxt", *WEIGHTS, "-macs", "0.4", "-rounds", "2",
        "-iterations", "40", "-qat",
    )  # fmt: skip
    assert list(out.rows)[:5] == [
        "net", "round 1 of 2: pruned", "round 1 of 2: distilled", "round 2 of 2: pruned",
        "round 2 of 2: distilled",
    ]  # fmt: skip
    assert list(out.rows)[5].startswith("int8, ")  # and the method that AUTO found
    assert list(out.rows)[6] == "int8, trained"
    whole = out.number("net", MACS)
    assert out.number("round 1 of 2: distilled", MACS) <= 0.4**0.5 * whole + 1
    assert out.number("round 2 of 2: distilled", MACS) <= 0.4 * whole
    assert out.number("int8, trained", BYTES) < out.number("net", BYTES)
    # What is written is what the table says.
    net = load_net(tmp_path / "student.prototxt", pb.TEST)
    net.load_weights(tmp_path / "student.caffemodel")
    assert not any(node.layer.type in ("BatchNorm", "Scale") for node in net.nodes)
    errors = (outputs(tmp_path / "student.onnx", here).argmax(1) != labels(here)).sum()
    assert errors == out.number("round 2 of 2: distilled", ERRORS)
    assert errors <= TESTED // 4  # chance makes nine tenths
    model = onnx.load(tmp_path / INT8_ONNX)
    kinds = {node.op_type for node in model.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    wrong = (outputs(tmp_path / INT8_ONNX, here).argmax(1) != labels(here)).sum()
    assert wrong == min(out.number(name, ERRORS) for name in out.rows if name.startswith("int8"))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "//" not in page.replace("</", "").replace("<!--", "")  # no address, so no network
    assert page.count("<tr") >= len(out.rows) + 1 and "<svg" in page
    assert f"{wrong} of {TESTED}" in page


def test_second_run_does_nothing_again(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-solver", "solver.prototxt", *WEIGHTS, "-macs", "0.5", "-rounds", "1"]
    words += ["-iterations", "20"]
    first = run(capsys, tmp_path, *words)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.caffemodel")}
    second = run(capsys, tmp_path, *words)
    assert second.rows == first.rows
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.caffemodel")}
    assert sum("reused" in line for line in second.lines) == 5
    (tmp_path / "int8" / INT8_ONNX).unlink()
    third = run(capsys, tmp_path, *words)
    assert sum("reused" in line for line in third.lines) == 4
    other = run(capsys, tmp_path, *words[:-1], "10")
    assert "pruned: reused, for its inputs are the same" in other.lines
    assert not any("distilled: reused" in line for line in other.lines)


def test_other_data_has_all_done_again(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in here.glob("*"):
        if path.is_file():
            shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    words = ["-solver", "solver.prototxt", *WEIGHTS, "-macs", "0.5", "-rounds", "1"]
    words += ["-iterations", "4"]
    run(capsys, tmp_path / "out", *words)
    for kind in ("images-idx3", "labels-idx1"):
        path = tmp_path / f"t10k-{kind}-ubyte"
        values = read_idx(path, IMAGES if kind.startswith("im") else LABELS)
        write_idx(path, values[:20])
    again = run(capsys, tmp_path / "out", *words)
    assert not any("reused" in line for line in again.lines)
    assert again.rows["net"][ERRORS].endswith("of 20")


def test_what_was_done_before_a_stop_is_kept(
    here: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["-solver", "solver.prototxt", *WEIGHTS, "-macs", "0.5", "-rounds", "1"]
    words += ["-iterations", "20"]

    def stop(*_: object) -> None:
        raise Stopped("Stopped")

    with monkeypatch.context() as patch:
        patch.setattr(stages, "quantize", stop)
        assert main(["-output", str(tmp_path), *words]) != 0
    out = run(capsys, tmp_path, *words)
    assert sum("reused" in line for line in out.lines) == 4  # all but the last stage
    assert (tmp_path / INT8_ONNX).is_file()


def test_student_of_a_solver_that_distils_keeps_its_teacher(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-solver", "kd_solver.prototxt", "-macs", "0.5", "-rounds", "1", "-iterations", "20"]
    out = run(capsys, tmp_path, *words, "-qat")
    assert list(out.rows)[:4] == ["teacher", "student", "pruned", "pruned and distilled"]
    assert "int8, trained" in out.rows
    assert out.number("teacher", MACS) == out.number("student", MACS)
    assert out.number("pruned", MACS) <= 0.5 * out.number("student", MACS)
    solver = (tmp_path / "round_1" / "solver.prototxt").read_text()
    assert "trained_iter_60.caffemodel" in solver and "distiller.prototxt" in solver
    assert "stepvalue: 13" in solver  # 40 of 60, in 20


def test_without_macs_nothing_is_pruned(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run(capsys, tmp_path, "-solver", "solver.prototxt", *WEIGHTS, "-tolerance", "100")
    assert len(out.rows) == 2
    assert out.number("net", MACS) == out.number(list(out.rows)[1], MACS)


def test_loss_over_the_tolerance_has_the_rounding_trained(
    here: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stages, "_points_lost", lambda before, after: 0.6)
    words = ["-solver", "solver.prototxt", *WEIGHTS, "-iterations", "10"]
    assert "int8, trained" not in run(capsys, tmp_path, *words, "-tolerance", "0.7").rows
    assert "int8, trained" in run(capsys, tmp_path, *words).rows


def test_four_bits_are_trained_at_once(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-solver", "solver.prototxt", *WEIGHTS, "-bits", "4", "-iterations", "20"]
    assert list(run(capsys, tmp_path, *words).rows) == ["net", "4 bits, trained"]
    assert (tmp_path / INT8_ONNX).is_file()


def test_float_is_written_alone_with_32_bits(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-solver", "solver.prototxt", *WEIGHTS, "-macs", "0.5", "-rounds", "1"]
    run(capsys, tmp_path, *words, "-iterations", "10", "-bits", "32")
    assert (tmp_path / "student.onnx").is_file()
    assert not (tmp_path / INT8_ONNX).exists()


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["-macs", "1.5"], 2, "-macs is the share of the multiply-adds that is left"),
        (["-macs", "0.5", "-bits", "9"], 2, "-bits must be 2 to 8, or 32"),
        (["-bits", "32"], 2, "nothing to do: give -macs, or -bits below 32"),
        (["-macs", "0.5", "-rounds", "0"], 2, "-rounds must be at least 1"),
        (["-macs", "0.0001", "-rounds", "1"], 1, "cannot be reached: with the fewest channels"),
        (["-macs", "0.5", "-exclude", "c3"], 2, "-exclude c3: no layer of this name"),
    ],
)
def test_what_cannot_be_is_one_line(
    here: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: Sequence[str],
    status: int,
    message: str,
) -> None:
    whole = ["-solver", "solver.prototxt", *WEIGHTS, "-output", str(tmp_path), *words]
    assert main(whole) == status
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


@pytest.mark.parametrize("name", ["t10k", "train"])
def test_absent_data_is_one_line(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    net = (here / "net.prototxt").read_text().replace(f'"{name}-', '"gone-')
    (tmp_path / "other.prototxt").write_text(net)
    (tmp_path / "solver.prototxt").write_text(SOLVER.replace("net.proto", "other.proto"))
    words = ["-solver", str(tmp_path / "solver.prototxt"), *WEIGHTS, "-output", str(tmp_path / "o")]
    assert main([*words, "-macs", "0.5", "-iterations", "2"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "gone-images-idx3-ubyte" in line


def test_net_without_scores_to_learn_from_is_one_line(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(SOLVER.replace("net.proto", "other.proto"))
    words = ["-solver", str(tmp_path / "solver.prototxt"), *WEIGHTS, "-output", str(tmp_path / "o")]
    assert main([*words, "-macs", "0.5"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "has no teacher, and its net no SoftmaxWithLoss" in line


def test_several_students_are_one_line(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    students = 'student { name: "a" net: "net.prototxt" } student { name: "b" net: "net.prototxt" }'
    solver = tmp_path / "solver.prototxt"
    solver.write_text(SOLVER.replace('net: "net.prototxt"', students))
    assert main(["-solver", str(solver), "-output", str(tmp_path / "o"), "-macs", "0.5"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "trains several students. compress takes a solver of one" in line


@pytest.mark.skipif(not OF_2014.is_dir() or not MNIST.is_dir(), reason="../shared is absent")
def test_lenet_of_2014(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_digits(tmp_path)
    monkeypatch.chdir(tmp_path)
    net = read_net(OF_2014 / "lenet_train_test.prototxt")
    for layer, name in zip(
        (x for x in net.layer if x.type == "Data"), ("train", "t10k"), strict=True
    ):
        layer.data_param.source = f"{name}-images-idx3-ubyte"
        layer.data_param.backend = pb.DataParameter.IDX
        layer.data_param.batch_size = 20
    text.write("net.prototxt", net)
    Path("solver.prototxt").write_text(SOLVER.replace("0.05", "0.01"))
    weights = OF_2014 / "lenet_iter_10000.caffemodel"
    out = run(
        capsys, tmp_path / "out", "-solver", "solver.prototxt", "-weights", str(weights),
        "-macs", "0.3", "-rounds", "1", "-iterations", "5", "-tolerance", "100",
    )  # fmt: skip
    assert out.number("net", MACS) == 2_293_000
    assert out.number("pruned and distilled", MACS) <= 0.3 * 2_293_000
    assert out.number(list(out.rows)[-1], BYTES) < out.number("net", BYTES) / 8

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from caffe_kd.cli.train import main
from caffe_kd.figures.samples import TRUE
from caffe_kd.layers import base
from caffe_kd.logs.log_parser import parse_log
from caffe_kd.net import load_net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.proto.binary import read_weights
from tests.cli.small import write_examples
from tests.cli.stopping import newest_state, stopped

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "train_kd.py"
ITERATIONS = 12
STUDENT, TEACHER = "student_train_test.prototxt", "teacher_train_test.prototxt"
SOLVER = "kd_solver.prototxt"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples with their teacher trained, which tests copy."""
    folder = tmp_path_factory.mktemp("trained")
    write_examples(folder, ITERATIONS)
    assert main(["-solver", str(folder / "teacher_solver.prototxt"), "-no_progress"]) == 0
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob("*.prototxt"):
        content = path.read_text(encoding="utf-8")
        path.write_text(content.replace(trained.as_posix(), tmp_path.as_posix()), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def edit(path: str, old: str, new: str) -> None:
    content = Path(path).read_text(encoding="utf-8")
    assert old in content
    Path(path).write_text(content.replace(old, new), encoding="utf-8")


def fails(capsys: pytest.CaptureFixture[str], *flags: str, status: int = 1) -> str:
    """Run and return the one message a user's mistake gives."""
    capsys.readouterr()
    assert main(["-no_progress", *flags]) == status
    err = capsys.readouterr().err
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ") or re.match(r"E\d{4} ", last), last
    return last


# ---- what it does


def test_distillation_leaves_student_log_and_onnx(folder: Path) -> None:
    assert main(["-solver", "kd_solver.prototxt", "-export_onnx", "student.onnx"]) == 0
    weights = Path(f"student_iter_{ITERATIONS}.caffemodel")
    assert not any(w.name.startswith("teacher/") for w in read_weights(weights))
    (log,) = folder.glob("student_2*.log")
    parsed = parse_log(log)
    assert parsed.net == "Student"
    assert parsed.train[0].outputs.keys() == {"distilling_loss"}
    assert parsed.tests[0][-1].iteration == ITERATIONS
    net = load_net("deploy.prototxt", pb.TEST)
    copied = net.load_weights(weights)
    assert copied.filled == copied.wanted
    assert copied.unused == []
    values = np.random.default_rng(0).random((3, 1, 28, 28), np.float32)
    (logits,) = ort.InferenceSession("student.onnx").run(["ip2"], {"data": values})
    assert logits.shape == (3, 10)


@pytest.mark.parametrize(
    "form", [["-solver", "{}"], ["-solver={}"], ["--solver", "{}"], ["--solver={}"]]
)
def test_flags_in_either_spelling(folder: Path, form: list[str]) -> None:
    flags = [part.format("student_solver.prototxt") for part in form]
    assert main([*flags, "--max_iter=1", "-output", "out"]) == 0
    assert Path("out/student_alone_iter_1.caffemodel").is_file()
    assert len(list(Path("out").glob("*.log"))) == 1


def test_temperature_and_alpha_override_and_the_log_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-solver", "kd_solver.prototxt", "-temperature", "2.5", "-max_iter", "1"]) == 0
    log = capsys.readouterr().err
    assert "layer 'distilling_loss': temperature 2.5 from the command line instead of 4" in log
    message = fails(capsys, "-solver", "kd_solver.prototxt", "-alpha", "1.5")
    assert "distiller.prototxt" in message and "alpha" in message


def test_print_net_prints_the_composed_net_and_stops(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-solver", "kd_solver.prototxt", "-print_net"]) == 0
    printed = capsys.readouterr().out
    assert 'name: "teacher/conv1"' in printed and "source_line" not in printed
    assert not list(folder.glob("student_iter_*"))


def test_snapshot_resumes_to_the_same_bits(folder: Path) -> None:
    edit("student_solver.prototxt", "display: 3", "display: 3 snapshot: 5")
    assert main(["-solver", "student_solver.prototxt"]) == 0
    whole = Path("student_alone_iter_12.caffemodel").read_bytes()
    flags = ["-solver", "student_solver.prototxt", "-snapshot", "student_alone_iter_5.solverstate"]
    assert main(flags) == 0
    assert Path("student_alone_iter_12.caffemodel").read_bytes() == whole


def test_weights_start_the_student(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-solver", "student_solver.prototxt", "-max_iter", "2"]) == 0
    start = Path("student_alone_iter_2.caffemodel")
    assert main(["-solver", "kd_solver.prototxt", "-weights", str(start), "-max_iter", "0"]) == 0
    before, after = read_weights(start), read_weights("student_iter_0.caffemodel")
    for a, b in zip(before, after, strict=False):
        for x, y in zip(a.blobs, b.blobs, strict=True):
            np.testing.assert_array_equal(x, y)
    assert f"-weights {start} goes to the student" in capsys.readouterr().err


def test_layers_flag_registers_a_type_of_ones_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))
    Path("mine.py").write_text(
        "from caffe_kd.layers import Layer, register\n"
        "@register('Twice')\n"
        "class Twice(Layer):\n"
        "    def forward(self, x):\n"
        "        return 2 * x\n"
    )
    edit("student_train_test.prototxt", 'name: "relu1" type: "ReLU"', 'name: "t" type: "Twice"')
    flags = ["-solver", "student_solver.prototxt", "-max_iter", "1", "-layers", "mine.py"]
    assert main([*flags, "-export_onnx", "twice.onnx"]) == 0
    values = np.zeros((1, 1, 28, 28), np.float32)
    ort.InferenceSession("twice.onnx").run(None, {"data": values})


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_signal_snapshots_and_says_how_to_go_on(folder: Path, name: str) -> None:
    edit("student_solver.prototxt", "max_iter: 12", "max_iter: 1000000")
    words = ["-solver", "student_solver.prototxt"]
    log = stopped("train_kd", *words, after="Iteration 3 (", by=getattr(signal, name))
    state, _ = newest_state(folder / "student_alone")
    assert any("Optimization stopped early." in line for line in log)
    assert log[-1].endswith(f"] To resume: -snapshot {state}")


def test_signals_do_what_the_flags_say(folder: Path) -> None:
    edit("student_solver.prototxt", "max_iter: 12", "max_iter: 1000000")
    command = [sys.executable, str(TOOL), "-solver", "student_solver.prototxt"]
    command += ["-sigint_effect", "none", "-sighup_effect", "stop", "-sigterm_effect", "none"]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert run.stderr is not None
    for line in run.stderr:
        if "Iteration 3 (" in line:
            run.send_signal(signal.SIGINT)
            run.send_signal(signal.SIGTERM)
        if "Iteration 12 (" in line:
            run.send_signal(signal.SIGHUP)
            break
    assert "Optimization stopped early." in run.stderr.read()
    run.stderr.close()
    assert run.wait() == 128 + signal.SIGHUP


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys; from caffe_kd.cli import train, test, compose_kd, quickstart\n"
        "for tool in (train, test, compose_kd, quickstart):\n"
        "    try: tool.main(['-h'])\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'numpy', 'google.protobuf'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


# ---- what it says to mistakes


def test_usage_errors_have_status_2(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Need a solver definition" in fails(capsys, status=2)
    both = ("-solver", "kd_solver.prototxt", "-snapshot", "a", "-weights", "b")
    assert "not both" in fails(capsys, *both, status=2)
    beyond = str(2**31)
    for flag in (
        ["-slover", "x"],
        ["-temperature", "warm"],
        ["-teacher_cache", "maybe"],
        ["-max_iter", beyond],
        ["-level", beyond],
    ):
        assert main(flag) == 2


@pytest.mark.skipif(os.environ.get("CUDA_VISIBLE_DEVICES", "") != "", reason="has a GPU")
def test_gpu_that_is_not_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = fails(capsys, "-solver", "student_solver.prototxt", "-gpu", "x", status=2)
    assert "-gpu takes a device number" in message
    if not torch.cuda.is_available():
        assert main(["-no_progress", "-solver", "student_solver.prototxt", "-gpu", "97"]) == 0
        assert "Use CPU. (-gpu 97, but there is no CUDA device)" in capsys.readouterr().err


MISTAKES = [
    # file, what is there, what a user wrote instead, what the message says
    (STUDENT, 'type: "ReLU"', 'type: "Relu"', "Did you mean 'ReLU'?"),
    (STUDENT, "num_output: 128", "num_outputs: 128", "Did you mean 'num_output'?"),
    (STUDENT, 'bottom: "ip1" top: "ip1"', 'bottom: "ip" top: "ip1"', "Unknown bottom blob 'ip'"),
    (STUDENT, 'top: "ip2"', 'top: "data"', "produced by multiple sources"),
    (STUDENT, "batch_size: 16", "batch_size: 0", "batch_size must be at least 1"),
    (STUDENT, "num_output: 128", "num_output: 4000000000", "too large"),
    (STUDENT, "num_output: 10 ", "num_output: 7 ", "(16, 7)"),
    (STUDENT, 'include { phase: TRAIN }', 'include { phase: TRAIN', "has no field named"),
    (STUDENT, 'stage: "distil" }', 'stage: "distil" ', "the file ends"),
    (STUDENT, "-images-idx3-ubyte", "-absent-idx3-ubyte", "no such file"),
    (TEACHER, "kernel_size: 5", "kernel_size: 500", "kernel"),
    (TEACHER, 'bottom: "pool1"', 'bottom: "pool3"', "Unknown bottom blob"),
    ("distiller.prototxt", "teacher/ip2", "teacher/ip3", "Did you mean 'teacher/ip2'?"),
    ("distiller.prototxt", "temperature: 4", "temperature: 0", "temperature"),
    ("distiller.prototxt", "alpha: 0.9", "alpha: 1.5", "alpha"),
    ("distiller.prototxt", 'bottom: "label"', "", "alpha"),
    (SOLVER, 'lr_policy: "poly"', 'lr_policy: "pole"', "Did you mean 'poly'?"),
    (SOLVER, 'type: "SGD"', 'type: "SDG"', "Did you mean 'SGD'?"),
    (SOLVER, "max_iter: 12", "", "max_iter is not given"),
    (SOLVER, "max_iter: 12", "max_iter: -12", "max_iter must be at least 0. Received: -12"),
    (SOLVER, "test_iter: 2", "test_iter: -2", "test_iter must be at least 0. Received: -2"),
    (SOLVER, 'prefix: "', r'prefix: "a\000b', "holds a NUL character"),
    (SOLVER, 'net: "', f'net: "{"x" * 300}', "no such file"),
    (SOLVER, '\nnet: "', '\ntrain_net: "" #', "no such file"),
    (SOLVER, "student_train_test", "studend_train_test", "no such file"),
    (SOLVER, "teacher_iter_12", "teacher_iter_99", "Train the teacher first"),
    (SOLVER, "base_lr: 0.02", "base_lr: fast", "takes a number"),
    (SOLVER, "base_lr: 0.02", "base_lr: 1e30", "the loss is"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "old", "new", "says"), MISTAKES, ids=[m[2][:40] or "-" for m in MISTAKES]
)
def test_mistake_is_reported_in_one_line_with_its_place(
    folder: Path, capsys: pytest.CaptureFixture[str], file: str, old: str, new: str, says: str
) -> None:
    edit(file, old, new)
    message = fails(capsys, "-solver", "kd_solver.prototxt")
    assert says in message
    if "the loss is" not in message:
        assert re.search(r"\.prototxt(:\d+)?", message), message


def test_files_that_are_something_else(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    solver = "kd_solver.prototxt"
    weights = f"teacher_iter_{ITERATIONS}.caffemodel"
    assert "no such file" in fails(capsys, "-solver", "absent.prototxt")
    assert "is not a prototxt" in fails(capsys, "-solver", weights)
    assert "teacher_solver.prototxt" in fails(
        capsys, "-solver", solver, "-teacher_weights", "teacher_solver.prototxt"
    )
    fails(capsys, "-solver", solver, "-snapshot", weights)
    content = Path(weights).read_bytes()
    Path(weights).write_bytes(content[: len(content) // 2])
    assert weights in fails(capsys, "-solver", solver)


def test_weights_that_do_not_fit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = f"teacher_iter_{ITERATIONS}.caffemodel"
    message = fails(capsys, "-solver", "student_solver.prototxt", "-weights", teacher)
    assert "layer 'ip1'" in message
    assert "shape mismatch" in message and "(1024, 1024)" in message and "(128, 784)" in message
    assert main(["-solver", "student_solver.prototxt", "-max_iter", "1"]) == 0
    edit(STUDENT, "num_output: 10 ", "num_output: 10 bias_term: false ")
    weights = "student_alone_iter_1.caffemodel"
    message = fails(capsys, "-solver", "student_solver.prototxt", "-weights", weights)
    assert "Incompatible number of blobs: 2 in the file, 1 in the net" in message


def test_snapshot_of_another_net(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = f"teacher_iter_{ITERATIONS}.solverstate"
    message = fails(capsys, "-solver", "student_solver.prototxt", "-snapshot", state)
    assert "another net" in message


def test_student_does_not_take_the_place_of_its_teacher(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = f'snapshot_prefix: "{folder.as_posix()}/'
    edit(SOLVER, f'{prefix}student"', f'{prefix}teacher"')
    before = Path(f"teacher_iter_{ITERATIONS}.caffemodel").read_bytes()
    message = fails(capsys, "-solver", SOLVER)
    assert "would overwrite the weights of the teacher" in message and f"{SOLVER}:" in message
    assert Path(f"teacher_iter_{ITERATIONS}.caffemodel").read_bytes() == before
    assert main(["-solver", SOLVER, "-max_iter", "1"]) == 0  # takes another file's place


def test_layers_flag_with_a_file_that_does_not_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = f"teacher_iter_{ITERATIONS}.caffemodel"
    message = fails(capsys, "-solver", SOLVER, "-layers", weights, status=2)
    # Python 3.10 calls the zero bytes a ValueError, later ones a SyntaxError.
    assert re.search(rf"-layers {weights}: (Syntax|Value)Error: source code", message)
    Path("mine.py").write_text("import sys\n\nundefined()\n")
    message = fails(capsys, "-solver", SOLVER, "-layers", "mine.py", status=2)
    assert "-layers mine.py:3: NameError: name 'undefined' is not defined" in message


def test_net_names_beyond_ascii_are_printed_anywhere(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(STUDENT, 'name: "Student"', 'name: "学生"')
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    assert main(["-solver", SOLVER, "-print_net"]) == 0
    printed = stdout.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    assert text.parse(printed, pb.NetParameter()).name == "学生"


def test_loss_that_ends_a_resumed_run_names_the_snapshot_it_began_with(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-solver", "student_solver.prototxt", "-max_iter", "2"]) == 0
    edit("student_solver.prototxt", "base_lr: 0.05", "base_lr: 1e30")
    state = f"{folder.as_posix()}/student_alone_iter_2.solverstate"
    message = fails(capsys, "-solver", "student_solver.prototxt", "-snapshot", state)
    assert f"Last snapshot: {state}" in message


def test_snapshot_beyond_max_iter_is_reported(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-solver", "student_solver.prototxt", "-max_iter", "2"]) == 0
    state = "student_alone_iter_2.solverstate"
    flags = ["-solver", "student_solver.prototxt", "-max_iter", "1", "-snapshot", state]
    assert main(flags) == 0
    assert "max_iter is 1, and iteration 2 is beyond it" in capsys.readouterr().err


def test_label_outside_the_classes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = folder / "train-labels-idx1-ubyte"
    content = bytearray(labels.read_bytes())
    content[-50] = 11
    labels.write_bytes(content)
    message = fails(capsys, "-solver", "student_solver.prototxt")
    assert "layer 'loss'" in message and "11" in message


def test_unwritable_output(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("")
    assert "file" in fails(capsys, "-solver", "student_solver.prototxt", "-output", "file/inside")


def test_nan_loss_keeps_the_last_snapshot(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(
        "student_solver.prototxt", 'lr_policy: "poly"', 'lr_policy: "step" gamma: 1e30 stepsize: 6'
    )
    edit("student_solver.prototxt", "display: 3", "display: 3 snapshot: 5")
    message = fails(capsys, "-solver", "student_solver.prototxt")
    assert re.search(r"the loss is (nan|inf) in iteration [78]", message)
    assert "student_alone_iter_5.solverstate" in message
    assert Path("student_alone_iter_5.caffemodel").is_file()


def test_tensorboard_writes_points(folder: Path) -> None:
    flags = ["-solver", SOLVER, "-tensorboard", "board", "-tensorboard_histograms", "-no_progress"]
    assert main(flags) == 0
    events = EventAccumulator("board")
    events.Reload()
    assert [event.step for event in events.Scalars("test/accuracy")] == [6, 12]
    assert "weights/ip2/0" in events.Tags()["histograms"]
    drawn = events.Images("samples/teacher")
    assert [image.step for image in drawn] == [6, 12]
    first, last = (
        np.array(Image.open(io.BytesIO(drawn[i].encoded_image_string)), float) for i in (0, -1)
    )
    # The true class' bars; and the student's marks move, while the teacher's bars do not.
    blue = 255 * np.array(to_rgb(TRUE))
    assert (np.abs(first - blue).max(axis=2) < 8).sum() > 500
    assert 0 < (first != last).any(axis=2).mean() < 0.05


def test_lack_of_tensorboard_is_reported(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    message = fails(capsys, "-solver", SOLVER, "-tensorboard", "board", status=2)
    assert "pip install tensorboard" in message


def test_histograms_need_a_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = fails(capsys, "-solver", SOLVER, "-tensorboard_histograms", status=2)
    assert "-tensorboard_histograms needs -tensorboard FOLDER" in message

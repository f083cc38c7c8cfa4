"""The article's example, from the teacher's training to the exported student, on small digits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch

from caffe_kd.cli.train import main
from caffe_kd.core.errors import SolverError
from caffe_kd.data.backends.idx import write_idx
from caffe_kd.net import load_net
from caffe_kd.proto import bundle, text
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto.binary import read_weights
from caffe_kd.solver.plan import Overrides, read_plan

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "prototxt" / "article"
ARTICLE = ROOT.parent / "shared" / "article"

TEACHER_STEPS, STUDENT_STEPS, FALL_OF_RATE = 20, 40, 35


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The example on 160 digits of ten noisy patterns, trained for a few steps."""
    folder = tmp_path_factory.mktemp("article")
    generator = np.random.default_rng(0)
    patterns = np.kron(generator.integers(0, 2, (10, 7, 7)), np.ones((4, 4), int))
    for name, count in (("train", 160), ("t10k", 100)):
        labels = generator.integers(0, 10, count).astype(np.uint8)
        noise = generator.integers(0, 120, (count, 28, 28))
        images = (patterns[labels] * 100 + noise).astype(np.uint8)
        write_idx(folder / f"{name}-images-idx3-ubyte", images)
        write_idx(folder / f"{name}-labels-idx1-ubyte", labels)
    changes = {
        "data/mnist/": f"{folder.as_posix()}/",
        "output/article/": f"{folder.as_posix()}/",
        "teacher_iter_2000": f"teacher_iter_{TEACHER_STEPS}",
        "test_iter: 100 ": "test_iter: 1 ",
        "test_iter: 100\n": "test_iter: 1\n",
        "test_interval: 1000": "test_interval: 10",
        "stepsize: 10000": f"stepsize: {FALL_OF_RATE}",
        "display: 100": "display: 1",
    }
    for path in EXAMPLE.iterdir():
        content = path.read_text()
        for old, new in changes.items():
            content = content.replace(old, new)
        (folder / path.name).write_text(content)
    assert train(folder, "teacher_solver", TEACHER_STEPS) == 0
    assert train(folder, "solver", STUDENT_STEPS, "-export_onnx", f"{folder}/student.onnx") == 0
    return folder


def train(folder: Path, solver: str, steps: int, *flags: str) -> int:
    solver_file = f"{folder}/{solver}.prototxt"
    return main(["-solver", solver_file, "-max_iter", str(steps), "-no_progress", *flags])


def log_of_student(folder: Path) -> str:
    (log,) = folder.glob("student_2*.log")
    return log.read_text()


def logged(log: str, what: str) -> list[float]:
    return [float(value) for value in re.findall(rf"{what} = (\S+)", log)]


def test_student_learns_from_labels_and_teacher(folder):
    log = log_of_student(folder)
    for name, weight in (("loss", 1), ("kd_loss", 0.5)):
        values = logged(log, rf"Train net output #\d: {name}")
        assert len(values) == STUDENT_STEPS
        assert values[-1] < values[0] / 2
        assert f" {name} = {values[0]:g} (* {weight} = " in log


def test_learning_rate_top_is_the_solvers_rate(folder):
    log = log_of_student(folder)
    shown = logged(log, r"Train net output #\d: lr")
    assert shown == logged(log, r"Iteration \d+, lr")
    assert shown[:FALL_OF_RATE] == [0.001] * FALL_OF_RATE
    assert shown[FALL_OF_RATE:] == [0.0001] * (STUDENT_STEPS - FALL_OF_RATE)


def test_accuracy_on_probabilities_is_that_of_the_deployed_net(folder):
    (logged_accuracy,) = logged(log_of_student(folder), r"Test net output #0: accuracy")[-1:]
    net = deployed(folder)
    net({"data": pixels_of_test(folder)})
    labels = np.fromfile(folder / "t10k-labels-idx1-ubyte", np.uint8)[8:]
    right = (net.blobs["prob"].argmax(1).numpy() == labels).mean()
    assert logged_accuracy == pytest.approx(right)
    assert logged_accuracy > 0.5  # far from the 0.1 of a net that has learned nothing


def test_snapshot_and_deployed_net_are_the_student_alone(folder):
    network = bundle.read(EXAMPLE / "network.prototxt")
    snapshot = {
        x.name: x for x in read_weights(folder / f"student_iter_{STUDENT_STEPS}.caffemodel")
    }
    assert [name for name, layer in snapshot.items() if layer.blobs] == ["conv1", "conv2", "fc8"]
    assert not [name for name in snapshot if "/" in name]
    student = [x.name for x in network.net("student").layer]
    net = text.read(folder / "deploy.prototxt", pb.NetParameter())
    assert [x.name for x in net.layer] == ["data", *student[: student.index("prob") + 1]]


def test_exported_student_has_the_outputs_of_the_deployed_net(folder):
    x = pixels_of_test(folder)
    net = deployed(folder)
    net({"data": x})
    session = ort.InferenceSession(str(folder / "student.onnx"), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["fc8"], {"data": x.numpy()})
    # ONNX Runtime adds up in another order: float32's rounding over 784 terms.
    np.testing.assert_allclose(logits, net.blobs["fc8"].detach().numpy(), rtol=1e-4, atol=1e-4)


def deployed(folder: Path) -> Any:
    net = load_net(folder / "deploy.prototxt")
    net.load_weights(folder / f"student_iter_{STUDENT_STEPS}.caffemodel")
    return net


def pixels_of_test(folder: Path) -> torch.Tensor:
    pixels = np.fromfile(folder / "t10k-images-idx3-ubyte", np.uint8)[16:]
    return torch.from_numpy(pixels.reshape(-1, 1, 28, 28).astype(np.float32) * 0.00390625)


def test_log_says_what_the_articles_form_was_read_as(folder):
    log = log_of_student(folder)
    for net in ("teacher", "student"):
        assert f"the phase in the state of net '{net}' is ignored" in log
    assert "net 'student': layers of the solver are added: mnist, silence" in log
    assert log.count("its bottom 'fc8_s' is 'teacher/fc8'") == 1


# ---- where the teacher and its weights come from


def variant(folder: Path, name: str, pattern: str, new: str) -> Path:
    """Write the solver with one thing changed; return its path."""
    content = (folder / "solver.prototxt").read_text()
    changed = re.sub(pattern, new, content, flags=re.MULTILINE)
    assert changed != content
    (folder / f"{name}.prototxt").write_text(changed)
    return folder / f"{name}.prototxt"


def test_weights_go_to_the_teacher_first_and_then_to_the_student(folder):
    solver = variant(folder, "no_teacher", "^teacher .*$", "")
    teacher = str(folder / f"teacher_iter_{TEACHER_STEPS}.caffemodel")
    student = str(folder / f"student_iter_{STUDENT_STEPS}.caffemodel")
    plan = read_plan(solver, Overrides(weights=[f"{teacher},{student}"]))
    assert [(t.name, str(t.path)) for t in plan.teachers] == [("teacher", teacher)]
    assert [str(path) for path in plan.student_weights] == [student]
    assert any(teacher in note and "goes to the teacher" in note for note in plan.notes)
    assert f"-weights {student} goes to the student" in plan.notes


def test_weights_go_to_the_student_where_the_teacher_has_some(folder):
    student = str(folder / f"student_iter_{STUDENT_STEPS}.caffemodel")
    plan = read_plan(folder / "solver.prototxt", Overrides(weights=[student]))
    assert [str(path) for path in plan.student_weights] == [student]
    assert f"-weights {student} goes to the student" in plan.notes


def test_teacher_of_another_name_is_the_files_own_teacher(folder):
    solver = variant(folder, "big", 'teacher { name: "teacher"', 'teacher { name: "big"')
    names = [x.name for x in read_plan(solver).composed.layer]
    assert "big/fc8" in names
    assert "big/softmax" not in names


def test_a_layer_that_differs_between_solver_and_net_names_both_places(folder, capsys):
    solver = variant(folder, "differs", r"num_output: 16", "num_output: 17")
    assert main(["-solver", str(solver)]) == 1
    where = r"\S*differs.prototxt:\d+: layer 'conv2' is written at \S*network.prototxt:\d+ too"
    error = capsys.readouterr().err
    assert re.search(rf"error: {where}, and differs there in convolution_param", error)


INLINE = """
base_lr: 0.1 lr_policy: "fixed" max_iter: 1
net_param { layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 2 } } }
layer { name: "data" type: "DummyData" top: "data" dummy_data_param { shape { dim: 2 dim: 3 } } }
"""


def test_layers_of_the_solver_join_a_net_written_in_it(tmp_path):
    (tmp_path / "solver.prototxt").write_text(INLINE)
    plan = read_plan(tmp_path / "solver.prototxt")
    assert [layer.name for layer in plan.train.param.layer] == ["data", "ip"]


def test_teacher_without_net_beside_a_student_alone_is_an_error(tmp_path):
    (tmp_path / "solver.prototxt").write_text(
        'net: "net.prototxt" max_iter: 1\nteacher { weights: "x.caffemodel" }'
    )
    (tmp_path / "net.prototxt").write_text('name: "student"')
    with pytest.raises(SolverError, match=r"solver.prototxt:2: the teacher 'teacher' has no net"):
        read_plan(tmp_path / "solver.prototxt")


# ---- the example and the article


def test_teacher_trained_alone_is_the_teacher_of_the_two_nets():
    own = bundle.read(EXAMPLE / "network.prototxt").net("teacher").layer
    alone = text.read(EXAMPLE / "teacher_train_test.prototxt", pb.NetParameter()).layer
    by_name = {layer.name: plain(layer) for layer in alone}
    for layer in own[:-1]:  # the last is the softmax
        assert plain(layer) == by_name[layer.name]


def plain(message: Any) -> str:
    return text.to_text(message)


@pytest.mark.skipif(not ARTICLE.is_dir(), reason="../shared/article is not here")
def test_example_has_all_that_the_article_has(tmp_path):
    for name in ("network", "solver"):
        content = (ARTICLE / f"{name}.prototxt").read_text().replace("...", "")
        (tmp_path / f"{name}.prototxt").write_text(content)
    ours, theirs = (
        bundle.read(EXAMPLE / "network.prototxt"),
        bundle.read(tmp_path / "network.prototxt"),
    )
    assert list(ours.nets) == list(theirs.nets)
    for name in ours.nets:
        assert_has(ours.nets[name], theirs.nets[name])
    example = text.read(EXAMPLE / "solver.prototxt", pb.SolverParameter())
    assert_has(example, text.read(tmp_path / "solver.prototxt", pb.SolverParameter()))


def assert_has(ours: Any, theirs: Any) -> None:
    """Check that a message has the fields of another with the same values, but the data's place."""
    for field, value in theirs.ListFields():
        mine = getattr(ours, field.name)
        if field.name == "layer":
            by_identity = {(x.name, str(x.include)): x for x in mine}
            for layer in value:
                assert_has(by_identity[layer.name, str(layer.include)], layer)
        elif field.message_type is not None and not field.is_repeated:
            assert_has(mine, value)
        elif field.name not in ("source", "backend", "source_line"):
            assert mine == value, field.name

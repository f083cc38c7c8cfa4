from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_kd.cli.export_onnx import main as export_onnx
from caffe_kd.core.errors import CaffeKDError, NetError, UsageError
from caffe_kd.dark_knowledge.look import Viewer, look, most_similar
from caffe_kd.dark_knowledge.teacher_student import TeacherStudent, of_models, of_solver
from caffe_kd.data.backends.idx import write_idx
from tests.dark_knowledge.nets import LABELS, PIXELS, STUDENT, TEACHER, write_nets
from tests.helpers import make_net

# float32 logits of pixels up to 255.
RTOL = 1e-4
BOTH = ["net.prototxt"] * 2, ["teacher.caffemodel", "student.caffemodel"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_nets(tmp_path)
    return tmp_path


def softened(logits: np.ndarray, temperature: float) -> np.ndarray:
    e = np.exp(logits / temperature)
    return e / e.sum(1, keepdims=True)


def test_each_sample_counts_once_though_the_last_batch_is_short(folder: Path) -> None:
    found = look(of_models(*BOTH), batches=50)
    assert (found.total, found.right) == (5, [4, 3])  # sample 3 looks like a 1
    assert look(of_models(*BOTH), batches=1).total == 2


def test_similarity_is_the_mean_output_by_true_class(folder: Path) -> None:
    pair = of_models(*BOTH)
    pair.temperature = 2.5
    found = look(pair)
    p = softened(TEACHER, 2.5)
    wanted = np.stack([p[0], p[1], (p[2] + p[1]) / 2])  # of class 2 one looks like a 1
    np.testing.assert_allclose(found.similarity, wanted, rtol=RTOL)
    (true, other, share), *_ = most_similar(found)
    assert (true, other) == (2, 1) and share == pytest.approx(wanted[2, 1], rel=RTOL)


def test_samples_are_right_and_sure_samples_of_each_class(folder: Path) -> None:
    found = look(of_models(*BOTH))
    assert [sample.label for sample in found.samples] == [0, 1, 2]
    assert np.array_equal(found.samples[2].image, PIXELS[2].reshape(3, 1) / 255)  # not sample 3
    np.testing.assert_allclose(found.samples[1].teacher, TEACHER[1], rtol=RTOL)


def test_disputed_samples_are_those_with_two_predictions(folder: Path) -> None:
    found = look(of_models(*BOTH))
    assert found.disagreements == len(found.disputed) == 2  # all that look like a 1
    for sample in found.disputed:
        assert sample.student is not None
        assert (int(sample.teacher.argmax()), int(sample.student.argmax())) == (1, 0)
        np.testing.assert_allclose(sample.student, STUDENT[1], rtol=RTOL)


def test_class_without_a_sample_has_no_row_and_no_sample(folder: Path) -> None:
    found = look(of_models(["net.prototxt"], ["teacher.caffemodel"]), batches=1)
    assert np.isnan(found.similarity[2]).all()
    assert [sample.label for sample in found.samples] == [0, 1]
    assert found.right == [2] and found.disputed == []
    assert all(not np.isnan(share) for _, _, share in most_similar(found, most=20))


@pytest.mark.parametrize(
    "transform",
    ["", "scale: 0.00390625", "mean_value: 100", "scale: 0.02 mean_value: 33.5"],
)
def test_image_is_that_before_the_transformation(folder: Path, transform: str) -> None:
    write_nets(folder, transform)
    viewer = Viewer(of_models(["net.prototxt"], ["teacher.caffemodel"]))
    images = torch.cat([batch.images for batch in viewer.batches(9)])
    restored = np.stack([viewer.to_image(image) for image in images])
    np.testing.assert_allclose(restored[:, :, 0] * 255, PIXELS, atol=1e-3)  # of 255


def test_colours_come_out_as_red_green_blue(folder: Path) -> None:
    """Caffe keeps blue, green, red; values that are no bytes go from black to white."""
    shape = "shape { dim: 1 dim: 3 dim: 2 dim: 2 }"
    net = make_net(f'layer {{ name: "in" type: "Input" top: "data" input_param {{ {shape} }} }}')
    viewer = Viewer(TeacherStudent(net, "data", None))
    image = torch.full((3, 2, 2), -3.0)
    image[0] = 5  # blue
    assert viewer.to_image(image).tolist() == [[[0, 0, 1]] * 2] * 2


def test_solver_names_both_nets_blobs_and_temperature(folder: Path) -> None:
    (folder / "distiller.prototxt").write_text(
        'layer { name: "kd" type: "DistillingLoss" bottom: "ip" bottom: "big/ip" '
        "include { phase: TRAIN } distilling_loss_param { temperature: 7 } }"
    )
    (folder / "solver.prototxt").write_text(
        'net: "net.prototxt" distiller_net: "distiller.prototxt" max_iter: 1 base_lr: 1 '
        'lr_policy: "fixed" teacher { name: "big" net: "net.prototxt" '
        'weights: "teacher.caffemodel" }'
    )
    pair = of_solver("solver.prototxt", "student.caffemodel")
    assert (pair.teacher, pair.student, pair.temperature) == ("big/ip", "ip", 7)
    found = look(pair)
    assert found.temperature == 7 and found.right == [4, 3]


@pytest.mark.parametrize("compared", [True, False])
def test_teacher_may_be_an_onnx_model(folder: Path, compared: bool) -> None:
    export = ["-model", "net.prototxt", "-weights", "teacher.caffemodel", "-outputs", "ip"]
    assert export_onnx([*export, "-output", "teacher.onnx"]) == 0
    kd = """layer { name: "kd" type: "DistillingLoss" bottom: "ip" bottom: "teacher/ip"
      include { phase: TRAIN } distilling_loss_param { temperature: 7 } }"""
    hint = """layer { name: "kd" type: "EuclideanLoss" bottom: "ip" bottom: "teacher/ip"
      include { phase: TRAIN } }"""
    (folder / "distiller.prototxt").write_text(kd if compared else hint)
    (folder / "solver.prototxt").write_text(
        'net: "net.prototxt" distiller_net: "distiller.prototxt" max_iter: 1 base_lr: 1 '
        'lr_policy: "fixed" teacher { net: "teacher.onnx" }'
    )
    pair = of_solver("solver.prototxt", "student.caffemodel")
    assert (pair.teacher, pair.student) == ("teacher/ip", "ip")
    found = look(pair)
    assert found.temperature == (7 if compared else 4) and found.right == [4, 3]


def test_teacher_of_several_is_chosen_by_name(folder: Path) -> None:
    kd = """layer { name: "KD" type: "DistillingLoss" bottom: "ip" bottom: "NAME/ip" top: "KD"
      distilling_loss_param { temperature: T } }"""
    pairs = (("right", 3), ("wrong", 7))
    (folder / "distiller.prototxt").write_text(
        "".join(
            kd.replace("KD", f"kd_{n}").replace("NAME", n).replace("T }", f"{t} }}")
            for n, t in pairs
        )
    )
    teachers = "".join(
        f'teacher {{ name: "{name}" net: "net.prototxt" weights: "{weights}.caffemodel" }}'
        for name, weights in (("right", "teacher"), ("wrong", "student"))
    )
    (folder / "solver.prototxt").write_text(
        'net: "net.prototxt" distiller_net: "distiller.prototxt" max_iter: 1 base_lr: 1 '
        f'lr_policy: "fixed" {teachers}'
    )
    for name, chosen, temperature, right in (
        (None, "right", 3, 4),
        ("right", "right", 3, 4),
        ("wrong", "wrong", 7, 3),
    ):
        pair = of_solver("solver.prototxt", "student.caffemodel", name)
        assert (pair.teacher, pair.temperature) == (f"{chosen}/ip", temperature)
        assert pair.others == [n for n, _ in pairs if n != chosen]
        assert look(pair).right[0] == right
    with pytest.raises(UsageError, match="no teacher 'wrang'.*Did you mean 'wrong'.*right, wrong"):
        of_solver("solver.prototxt", teacher="wrang")


def test_logits_are_found_before_a_softmax(folder: Path) -> None:
    content = (folder / "net.prototxt").read_text()
    tail = content.index('layer { name: "loss"')
    softmax = 'layer { name: "p" type: "Softmax" bottom: "ip" top: "p" }\n'
    accuracy = 'layer { name: "a" type: "Accuracy" bottom: "p" bottom: "label" top: "a" }\n'
    for end in (softmax, softmax + accuracy):
        (folder / "net.prototxt").write_text(content[:tail] + end)
        assert of_models(["net.prototxt"], ["teacher.caffemodel"]).teacher == "ip"
    (folder / "net.prototxt").write_text(content[:tail])
    with pytest.raises(NetError, match="the blob of the logits cannot be found"):
        of_models(["net.prototxt"], ["teacher.caffemodel"])


def test_mistakes_are_reported(folder: Path) -> None:
    with pytest.raises(UsageError, match="go in pairs.*Received: 2 and 1"):
        of_models(["net.prototxt"] * 2, ["teacher.caffemodel"])
    with pytest.raises(UsageError, match="is a net"):
        of_solver("net.prototxt")
    (folder / "solver.prototxt").write_text(
        'net: "net.prototxt" max_iter: 1 base_lr: 1 lr_policy: "fixed"'
    )
    with pytest.raises(UsageError, match="names no teacher"):
        of_solver("solver.prototxt")
    wide = (folder / "net.prototxt").read_text().replace("num_output: 3", "num_output: 4")
    (folder / "wide.prototxt").write_text(wide)
    with pytest.raises(CaffeKDError, match="shape mismatch"):
        of_models(["wide.prototxt"], ["teacher.caffemodel"])
    pair = of_models(*BOTH)
    pair.net.nodes[0].top_shapes[0] = (2, 5, 3, 1)
    with pytest.raises(NetError, match="no data layer gives images"):
        look(pair)


def test_label_that_is_no_class_is_an_error(folder: Path) -> None:
    write_idx(folder / "labels-idx1-ubyte", LABELS + 7)
    with pytest.raises(CaffeKDError, match="label=8"):
        look(of_models(["net.prototxt"], ["teacher.caffemodel"]))


@pytest.mark.parametrize(
    "end",
    [
        'layer { name: "e" type: "Softmax" bottom: "nope" top: "p" }',
        'layer { name: "e" type: "Accuracy" top: "a" }',
        'layer { name: "e" type: "Softmax" bottom: "p" top: "q" }\n'
        'layer { name: "f" type: "Softmax" bottom: "q" top: "p" }',
    ],
)
def test_judge_of_a_blob_that_no_layer_makes_is_named_in_one_line(folder: Path, end: str) -> None:
    content = (folder / "net.prototxt").read_text()
    (folder / "teacher.prototxt").write_text(content[: content.index('layer { name: "loss"')] + end)
    with pytest.raises(
        NetError, match=r"^teacher.prototxt:\d+: layer '[ef]' .*Unknown bottom blob"
    ):
        of_models(["teacher.prototxt", "net.prototxt"], ["teacher.caffemodel"] * 2)

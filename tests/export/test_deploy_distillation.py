"""What is deployed after the methods of prototxt/distillation is the student alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_kd.export.deploy import deploy
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.proto.compose import Teacher, compose

FOLDER = Path(__file__).parents[2] / "prototxt" / "distillation"
METHODS = "fitnet at fsp nst vid ft ab sp rkd pkt cc crd graph".split()

DATA = """
layer { name: "in" type: "Input" top: "data" top: "label"
        input_param { shape { dim: 8 dim: 1 dim: 28 dim: 28 } shape { dim: 8 } } }
"""


def net_of(name):
    """A net of the folder, with an Input in place of its data layers."""
    net = text.read(FOLDER / f"{name}.prototxt", pb.NetParameter())
    layers = [layer for layer in net.layer if layer.type != "Data"]
    if len(layers) < len(net.layer):
        layers = [*text.parse(DATA, pb.NetParameter(), "data").layer, *layers]
    result = pb.NetParameter(name=net.name)
    result.layer.extend(layers)
    return result


@pytest.mark.parametrize("method", METHODS)
def test_deployed_net_is_the_student_alone(method):
    student, teacher = net_of("student_train_test"), net_of("teacher_train_test")
    counts = dict.fromkeys(["conv1", "conv2", "ip1", "ip2"], 2)
    distiller = net_of(f"{method}_distiller")
    composed = compose(student, [Teacher("teacher", teacher, counts)], distiller)
    assert len(composed.layer) > len(student.layer)
    assert text.to_text(deploy(composed)) == text.to_text(deploy(student))

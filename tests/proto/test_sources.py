from __future__ import annotations

import pytest

from caffe_kd.export.deploy import becomes_input
from caffe_kd.layers import Layer, base, layer_types, register
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import sources
from caffe_kd.proto.compose import Teacher, compose
from caffe_kd.proto.sources import Source, source_of_layer, source_of_type


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("Data", Source.SAMPLES),
        ("HDF5Data", Source.SAMPLES),
        ("Input", Source.INPUT),
        ("DummyData", Source.VALUES),
        ("Parameter", Source.PARAMETER),
        ("LearningRate", Source.RATE),
    ],
)
def test_every_type_without_bottoms_brings_one_thing(kind: str, source: Source) -> None:
    assert layer_types()[kind].bottoms[0] == 0
    assert source_of_layer(pb.LayerParameter(type=kind)) is source
    assert source_of_layer(pb.LayerParameter(type=kind, bottom=["x"])) is None
    assert source_of_type("OfAUser") is Source.SAMPLES


@pytest.mark.parametrize("name", sorted(layer_types()))
def test_class_and_message_say_the_same(name: str) -> None:
    kind = layer_types()[name]
    said = source_of_layer(pb.LayerParameter(type=name)) if kind.bottoms[0] == 0 else None
    assert kind.brings is said
    assert (kind.brings is None) == (kind.bottoms[0] > 0)


def test_type_of_a_users_own_says_what_it_brings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_OF_TYPES", dict(sources._OF_TYPES))
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))

    @register("Ramp", bottoms=0, origin="own")
    class Ramp(Layer):
        """Count."""

        brings = Source.VALUES

    @register("Camera", bottoms=0, origin="own")
    class Camera(Layer):
        """Take images."""

    assert source_of_layer(pb.LayerParameter(type="Ramp")) is Ramp.brings is Source.VALUES
    assert source_of_layer(pb.LayerParameter(type="Camera")) is Camera.brings is Source.SAMPLES
    assert becomes_input(Ramp) and becomes_input(Camera)


def test_learning_rate_of_a_teacher_is_no_data_that_the_student_must_have() -> None:
    student = pb.NetParameter()
    student.layer.add(name="in", type="Input", top=["data"])
    teacher = pb.NetParameter()
    teacher.layer.add(name="lr", type="LearningRate", top=["lr"])
    teacher.layer.add(name="scale", type="Eltwise", bottom=["data", "lr"], top=["out"])
    teacher.layer.add(name="in", type="Input", top=["data"])
    student.layer.add(name="end", type="Silence", bottom=["t/out"])
    composed = compose(student, [Teacher("t", teacher, {})])
    assert [layer.name for layer in composed.layer] == ["in", "t/lr", "t/scale", "end"]

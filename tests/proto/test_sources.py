from __future__ import annotations

import pytest

from caffe_kd.layers import layer_types
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto.compose import Teacher, compose
from caffe_kd.proto.sources import Source, source_of_layer, source_of_type


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("Data", Source.RECORDS),
        ("HDF5Data", Source.RECORDS),
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
    assert source_of_type("OfAUser") is Source.RECORDS


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

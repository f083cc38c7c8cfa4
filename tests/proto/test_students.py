"""Several students as one net."""

from __future__ import annotations

import pytest

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.proto.students import merge

DATA = """
layer { name: "d" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  data_param { source: "train" batch_size: 4 } }
layer { name: "d" type: "Data" top: "data" top: "label" include { phase: TEST }
  data_param { source: "test" batch_size: 4 } }
"""
BODY = """
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" param { name: "w" }
  inner_product_param { num_output: 3 } }
layer { name: "relu" type: "ReLU" bottom: "ip" top: "ip" }
layer { name: "own" type: "Parameter" top: "own" parameter_param { shape { dim: 3 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" }
"""


def parse(content: str):
    return text.parse(content, pb.NetParameter(), "net.prototxt")


def merged(*nets: str):
    return merge([(name, parse(net)) for name, net in zip("abc", nets, strict=False)])


def test_data_is_shared_and_all_else_is_each_students_own():
    net = merged(DATA + BODY, DATA + BODY)
    assert net.name == "a+b"
    assert [layer.name for layer in net.layer] == [
        "d", "d", "a/ip", "a/relu", "a/own", "a/loss", "b/ip", "b/relu", "b/own", "b/loss",
    ]  # fmt: skip
    ip, relu, own, loss = net.layer[2:6]
    assert (list(ip.bottom), list(ip.top), ip.param[0].name) == (["data"], ["a/ip"], "a/w")
    assert (list(relu.bottom), list(relu.top)) == (["a/ip"], ["a/ip"])
    assert list(own.top) == ["a/own"]
    assert (list(loss.bottom), list(loss.top)) == (["a/ip", "label"], [])


def test_data_of_one_student_alone_is_added():
    more = 'layer { name: "e" type: "DummyData" top: "noise" }'
    names = [layer.name for layer in merged(DATA + BODY, DATA + more + BODY).layer]
    assert sorted(names[:3]) == ["d", "d", "e"]


def test_change_of_the_data_in_place_is_the_students_own():
    change = 'layer { name: "half" type: "Power" bottom: "data" top: "data" }'
    net = merged(DATA + change + BODY, DATA + BODY)
    by_name = {layer.name: layer for layer in net.layer}
    assert (list(by_name["a/half"].bottom), list(by_name["a/half"].top)) == (["data"], ["a/data"])
    assert list(by_name["a/ip"].bottom) == ["a/data"]
    assert list(by_name["b/ip"].bottom) == ["data"]


def test_change_of_the_data_in_some_states_is_refused():
    change = (
        'layer { name: "half" type: "Power" bottom: "data" top: "data" include { phase: TRAIN } }'
    )
    with pytest.raises(NetError, match="layer 'half' changes 'data', which the students share"):
        merged(DATA + change + BODY, DATA + BODY)


def test_students_are_not_changed():
    net = parse(DATA + BODY)
    before = text.to_text(net)
    merge([("a", net), ("b", net)])
    assert text.to_text(net) == before


def test_nets_of_other_state_are_refused():
    with pytest.raises(NetError, match="the students 'a' and 'b' have nets of different state"):
        merged(DATA + BODY, 'state { stage: "x" }' + DATA + BODY)

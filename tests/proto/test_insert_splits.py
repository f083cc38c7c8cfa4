from __future__ import annotations

import pytest

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.proto.insert_splits import insert_splits


def split(*layers: str):
    net = text.parse("\n".join(f"layer {{ {x} }}" for x in layers), pb.NetParameter())
    before = net.SerializeToString()
    result = insert_splits(net)
    assert net.SerializeToString() == before
    return result


def lines(net) -> list[str]:
    return [f"{x.name}: {' '.join(x.bottom)} -> {' '.join(x.top)}" for x in net.layer]


def test_blob_taken_once_needs_no_split() -> None:
    net = split(
        'name: "data" type: "DummyData" top: "data" top: "label"',
        'name: "ip" type: "InnerProduct" bottom: "data" top: "ip"',
        'name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "label"',
    )
    assert lines(net) == ["data:  -> data label", "ip: data -> ip", "loss: ip label -> "]


def test_lenet_of_phase_test_has_caffes_names() -> None:
    net = split(
        'name: "mnist" type: "Data" top: "data" top: "label"',
        'name: "ip2" type: "InnerProduct" bottom: "data" top: "ip2"',
        'name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy"',
        'name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss"',
    )
    assert lines(net) == [
        "mnist:  -> data label",
        "label_mnist_1_split: label -> label_mnist_1_split_0 label_mnist_1_split_1",
        "ip2: data -> ip2",
        "ip2_ip2_0_split: ip2 -> ip2_ip2_0_split_0 ip2_ip2_0_split_1",
        "accuracy: ip2_ip2_0_split_0 label_mnist_1_split_0 -> accuracy",
        "loss: ip2_ip2_0_split_1 label_mnist_1_split_1 -> loss",
    ]
    assert net.layer[1].type == "Split"


def test_top_made_in_place_is_split_behind_the_last_maker() -> None:
    net = split(
        'name: "data" type: "DummyData" top: "x"',
        'name: "relu" type: "ReLU" bottom: "x" top: "x"',
        'name: "a" type: "ReLU" bottom: "x" top: "a"',
        'name: "b" type: "ReLU" bottom: "x" top: "b"',
    )
    assert lines(net)[1:3] == [
        "relu: x -> x",
        "x_relu_0_split: x -> x_relu_0_split_0 x_relu_0_split_1",
    ]
    assert lines(net)[3:] == ["a: x_relu_0_split_0 -> a", "b: x_relu_0_split_1 -> b"]


def test_layer_that_takes_a_blob_twice_gets_two_copies() -> None:
    net = split(
        'name: "data" type: "DummyData" top: "x"',
        'name: "sum" type: "Eltwise" bottom: "x" bottom: "x" top: "sum"',
    )
    assert lines(net)[-1] == "sum: x_data_0_split_0 x_data_0_split_1 -> sum"


def test_loss_weight_counts_as_taker_and_moves_to_the_split() -> None:
    net = split(
        'name: "data" type: "DummyData" top: "data"',
        'name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1" loss_weight: 2.5',
        'name: "ip2" type: "InnerProduct" bottom: "data" top: "ip2"',
        'name: "loss" type: "EuclideanLoss" bottom: "ip1" bottom: "ip2" top: "loss"',
    )
    assert lines(net)[2:] == [
        "ip1: data_data_0_split_0 -> ip1",
        "ip1_ip1_0_split: ip1 -> ip1_ip1_0_split_0 ip1_ip1_0_split_1",
        "ip2: data_data_0_split_1 -> ip2",
        "loss: ip1_ip1_0_split_1 ip2 -> loss",
    ]
    assert list(net.layer[2].loss_weight) == []
    assert list(net.layer[3].loss_weight) == [2.5, 0]


def test_loss_weight_of_a_top_no_layer_takes_stays() -> None:
    net = split(
        'name: "data" type: "DummyData" top: "x"',
        'name: "power" type: "Power" bottom: "x" top: "y" loss_weight: 0.3',
    )
    assert len(net.layer) == 2
    assert net.layer[1].loss_weight[0] == pytest.approx(0.3)


def test_empty_bottom_stays_none() -> None:
    net = split(
        'name: "data" type: "DummyData" top: "x"',
        'name: "silence" type: "Silence" bottom: "" bottom: "x"',
    )
    assert list(net.layer[1].bottom) == ["", "x"]


def test_unknown_bottom_is_refused_with_a_hint() -> None:
    with pytest.raises(NetError, match=r"layer 'a' \(ReLU\): Unknown bottom blob 'dat'.*'data'"):
        split('name: "d" type: "DummyData" top: "data"', 'name: "a" type: "ReLU" bottom: "dat"')

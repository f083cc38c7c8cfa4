"""Layers of 2014, each step on a small net of its own."""

from __future__ import annotations

import pytest

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.proto.upgrade import Notes, upgrade_net
from caffe_kd.proto.upgrade_v1 import TYPES


def net_of(prototxt: str):
    return text.parse(prototxt, pb.NetParameter(), "net.prototxt")


def layer_of(settings: str):
    """Return the current layer that a V1 layer with these settings becomes."""
    notes = Notes()
    net = net_of(f'layers {{ name: "l" {settings} }}')
    (layer,) = upgrade_net(net, "net.prototxt", notes).layer
    assert notes.problems == []
    assert layer.source_line == "net.prototxt:1"
    layer.ClearField("source_line")
    return layer


def current(settings: str):
    return text.parse(f'name: "l" {settings}', pb.LayerParameter())


def test_every_type_has_a_successor():
    assert set(TYPES) == set(pb.V1LayerParameter.LayerType.keys())
    for old, new in TYPES.items():
        assert layer_of(f"type: {old}") == current(f'type: "{new}"')
    # Most differ in nothing but capitals.
    flat = {old: old.replace("_", "").lower() for old in TYPES}
    renamed = {old for old, new in TYPES.items() if flat[old] != new.lower()}
    assert renamed == {"NONE", "SOFTMAX_LOSS"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("blobs_lr: 1 blobs_lr: 2", "param { lr_mult: 1 } param { lr_mult: 2 }"),
        ("weight_decay: 1 weight_decay: 0", "param { decay_mult: 1 } param { decay_mult: 0 }"),
        (
            'param: "w" param: "" blob_share_mode: STRICT blob_share_mode: PERMISSIVE',
            'param { name: "w" share_mode: STRICT } param { name: "" share_mode: PERMISSIVE }',
        ),
        (
            'blobs_lr: 1 weight_decay: 1 weight_decay: 0 param: "w"',
            'param { name: "w" lr_mult: 1 decay_mult: 1 } param { decay_mult: 0 }',
        ),
    ],
)
def test_lists_by_blob_become_params(old, new):
    assert layer_of(f"type: INNER_PRODUCT {old}") == current(f'type: "InnerProduct" {new}')


COMMON = """
    bottom: "a" bottom: "b" top: "c" loss_weight: 0.5
    include { phase: TRAIN stage: "s" } exclude { min_level: 2 }
    loss_param { ignore_label: 3 } transform_param { scale: 0.5 mean_value: 104 }
    convolution_param { num_output: 3 kernel_size: 5 weight_filler { type: "xavier" } }
    relu_param {}
    blobs { num: 1 channels: 2 data: 1 data: 2 diff: 3 diff: 4 }
"""


def test_what_kept_its_name_stays():
    layer = layer_of(f"type: CONVOLUTION {COMMON}")
    assert layer == current(f'type: "Convolution" {COMMON}')
    assert layer.HasField("relu_param")


def test_every_parameter_message_of_2014_exists_today():
    changed = {"layer", "type", "param", "blob_share_mode", "blobs_lr", "weight_decay"}
    today = pb.LayerParameter.DESCRIPTOR.fields_by_name
    for field in pb.V1LayerParameter.DESCRIPTOR.fields:
        if field.name not in changed:
            assert today[field.name].message_type == field.message_type, field.name
            assert today[field.name].is_repeated == field.is_repeated, field.name


TRANSFORM = 'scale: 0.5 mean_file: "m" crop_size: 227 mirror: true'


@pytest.mark.parametrize(
    ("old_type", "message", "new_type"),
    [
        ("DATA", "data_param", "Data"),
        ("IMAGE_DATA", "image_data_param", "ImageData"),
        ("WINDOW_DATA", "window_data_param", "WindowData"),
    ],
)
def test_transformation_moves_to_transform_param(old_type, message, new_type):
    old = f'type: {old_type} {message} {{ source: "s" {TRANSFORM} }}'
    assert layer_of(old) == current(
        f'type: "{new_type}" {message} {{ source: "s" }} transform_param {{ {TRANSFORM} }}'
    )


def test_transformation_joins_a_transform_param():
    old = "type: DATA data_param { scale: 0.5 } transform_param { scale: 1 crop_size: 3 }"
    new = 'type: "Data" data_param {} transform_param { scale: 0.5 crop_size: 3 }'
    assert layer_of(old) == current(new)


def test_transformation_of_a_current_layer_stays():
    """Caffe moves these fields in layers of 2014 only."""
    net = net_of('layer { name: "d" type: "Data" data_param { scale: 0.5 } }')
    assert upgrade_net(net, "net.prototxt") is net


def test_layer_beside_layers_is_an_error():
    with pytest.raises(NetError) as caught:
        upgrade_net(
            net_of('layer { name: "a" type: "ReLU" }\nlayers { name: "b" type: RELU }'), "x"
        )
    message = str(caught.value)
    assert message.startswith(
        "net.prototxt:2: Refusing to upgrade inconsistent NetParameter input; the definition "
        "includes both 'layer' and 'layers' fields."
    )
    assert "net.prototxt:1" in message


def test_layer_beside_layers_of_2013_is_an_error():
    net = net_of('layer { name: "a" type: "ReLU" } layers { layer { name: "b" type: "relu" } }')
    with pytest.raises(NetError, match="Refusing to upgrade inconsistent NetParameter"):
        upgrade_net(net, "x")


def test_type_of_a_fork_in_binary_is_reported():
    fork = b"\x22\x01f" + b"\x28\xe7\x07"  # name "f", type 999
    net = pb.NetParameter.FromString(b"\x12" + bytes([len(fork)]) + fork)
    notes = Notes()
    (layer,) = upgrade_net(net, "x.caffemodel", notes).layer
    assert (layer.name, layer.HasField("type")) == ("f", False)
    assert notes.problems == ["layer 'f' has no known type"]

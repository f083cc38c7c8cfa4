"""Binary nets of forks: their fields under our numbers and names, all else untouched."""

from __future__ import annotations

import random

import numpy as np
import pytest

from caffe_kd.cli import upgrade_net_proto_binary
from caffe_kd.core.errors import CaffeKDError
from caffe_kd.net import Net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import renumber, text
from caffe_kd.proto.binary import read_weights
from caffe_kd.proto.message import read_net, write_net
from caffe_kd.proto.upgrade import Notes, upgrade_net
from caffe_kd.proto.wire import header, number_field, varint


def block(number: int, content: bytes) -> bytes:
    return header(number, len(content)) + content


def a_float(number: int, value: float) -> bytes:
    return varint(number << 3 | 5) + np.float32(value).tobytes()


def layer(kind: str, *fields: bytes, name: str = "l") -> bytes:
    blob = block(5, np.arange(3, dtype="<f4").tobytes()) + block(7, block(1, b"\x03"))
    known = block(1, name.encode()) + block(2, kind.encode())
    return block(100, known + block(7, blob) + b"".join(fields))


def read(tmp_path, *layers: bytes):
    path = tmp_path / "fork.caffemodel"
    path.write_bytes(block(1, b"net") + b"".join(layers))
    return read_net(path)


TEMPERATURE = a_float(1, 4)


@pytest.mark.parametrize(
    ("kind", "number", "content", "prototxt"),
    [
        ("KnowledgeDistillation", 147, TEMPERATURE, "knowledge_distillation_param{temperature: 4}"),
        ("KnowledgeDistillation", 158, TEMPERATURE, "knowledge_distillation_param{temperature: 4}"),
        ("KnowledgeDistillation", 1401, TEMPERATURE, "knowledge_distillation_param{temperature:4}"),
        ("KnowledgeDistillation", 162, TEMPERATURE, "Knowledge_distillation_param{temperature: 4}"),
        ("SmoothL1Loss", 148, a_float(1, 3), "smooth_l1_loss_param { sigma: 3 }"),
        ("SmoothL1Loss", 8266712, a_float(1, 3), "smooth_l1_loss_param { sigma: 3 }"),
        ("ROIPooling", 150, number_field(1, 7), "roi_pooling_param { pooled_h: 7 }"),
        ("ROIPooling", 8266711, number_field(1, 7), "roi_pooling_param { pooled_h: 7 }"),
        ("Permute", 202, number_field(1, 2), "permute_param { order: 2 }"),
        ("Scale", 160, number_field(4, 1), "scale_param { bias_term: true }"),
        ("BN", 137, a_float(4, 0.5), "bn_param { eps: 0.5 }"),
        ("BN", 45, number_field(3, 1), "bn_param { bn_mode: INFERENCE }"),
        ("Upsample", 137, number_field(6, 5), "upsample_param { upsample_h: 5 }"),
        ("LSTM", 151, number_field(1, 5), "recurrent_param { num_output: 5 }"),
        # Caffe's own, under the same numbers.
        ("Swish", 147, a_float(1, 2), "swish_param { beta: 2 }"),
        ("Parameter", 145, block(1, block(1, b"\x05")), "parameter_param { shape { dim: 5 } }"),
        ("LSTM", 146, number_field(1, 5), "recurrent_param { num_output: 5 }"),
        ("Embed", 137, number_field(1, 5), "embed_param { num_output: 5 }"),
    ],
)
def test_settings_are_found_by_layer_type(tmp_path, kind, number, content, prototxt):
    net = read(tmp_path, layer("ReLU"), layer(kind, block(number, content)), layer("ReLU"))
    expected = text.parse(f'name: "l" type: "{kind}" {prototxt}', pb.LayerParameter())
    (blob,) = net.layer[1].blobs
    assert (list(blob.data), list(blob.shape.dim)) == ([0, 1, 2], [3])
    del net.layer[1].blobs[:]
    assert net.layer[1] == expected
    assert [x.type for x in net.layer] == ["ReLU", kind, "ReLU"]


def test_number_types_of_nvidia_get_their_names_and_are_left_out_on_upgrade(tmp_path):
    fields = [number_field(n, v) for n, v in ((145, 2), (146, 2), (147, 1), (148, 1))]
    net = read(tmp_path, layer("Convolution", *fields))
    assert [f.text for f in net.layer[0].foreign] == [
        "forward_type: FLOAT16",
        "backward_type: FLOAT16",
        "forward_math: FLOAT",
        "backward_math: FLOAT",
    ]
    notes = Notes()
    upgraded = upgrade_net(net, "fork.caffemodel", notes)
    assert not upgraded.layer[0].foreign
    assert notes.lines[0] == (
        "'forward_type' of NVIDIA's fork is left out: numbers are float32 here"
    )


POOLING_OF_INTEL = (
    number_field(1, 1)  # pool: AVE
    + number_field(2, 1)  # pad
    + number_field(3, 3)  # kernel_size
    + number_field(4, 2)  # stride
    + number_field(13, 0)  # avg_include_pad, where Caffe has round_mode
)


@pytest.mark.parametrize("mark", [block(9, b"MKLDNN"), block(10, b""), None])
def test_pooling_of_intel_has_its_dims(tmp_path, mark):
    own = [block(149, b"MKL2017")] if mark is None else []
    net = read(tmp_path, mark or b"", layer("Pooling", block(121, POOLING_OF_INTEL), *own))
    param = net.layer[0].pooling_param
    assert (param.pad, param.kernel_size, param.stride) == (1, 3, 2)
    assert param.pool == param.AVE and not param.HasField("round_mode")
    assert [f.text for f in param.foreign] == ["avg_include_pad: 0"]
    with pytest.raises(CaffeKDError, match="avg_include_pad: 0' is of Intel's fork"):
        shape = text.parse(
            'layer { name: "x" type: "Input" top: "x" '
            "input_param { shape { dim: 1 dim: 1 dim: 8 dim: 8 } } }",
            pb.NetParameter(),
        )
        shape.layer.add().CopyFrom(upgrade_net(net, "fork.caffemodel").layer[0])
        Net(shape)


def test_pooling_of_others_stays(tmp_path):
    caffe = number_field(2, 3) + number_field(3, 2) + number_field(4, 1)
    param = read(tmp_path, layer("Pooling", block(121, caffe))).layer[0].pooling_param
    assert (param.kernel_size, param.stride, param.pad) == (3, 2, 1)


def test_unknown_numbers_survive_byte_for_byte(tmp_path):
    unknown = block(199, b"\x08\x01") + number_field(1500, 7) + a_float(1501, 2)
    data = block(1, b"net") + layer("MultiBoxLoss", unknown) + block(77, b"of the net")
    path, copy = tmp_path / "a.caffemodel", tmp_path / "b.caffemodel"
    path.write_bytes(data)
    write_net(copy, read_net(path))
    assert sorted(copy.read_bytes()) == sorted(data)  # protobuf writes fields in another order
    again = read_net(copy)
    assert again == read_net(path)
    assert unknown in copy.read_bytes()


def test_a_file_without_fields_of_forks_is_not_copied():
    data = layer("Convolution") + layer("Swish", block(147, a_float(1, 2)))
    assert renumber.renumber(data).obj is data


def test_upgrade_tool_writes_the_fields_of_a_fork_under_our_numbers(tmp_path):
    old, new = tmp_path / "old.caffemodel", tmp_path / "new.caffemodel"
    old.write_bytes(layer("KnowledgeDistillation", block(147, TEMPERATURE)))
    assert upgrade_net_proto_binary.main([str(old), str(new)]) == 0
    net = pb.NetParameter.FromString(new.read_bytes())
    assert net.layer[0].knowledge_distillation_param.temperature == 4
    assert not net.layer[0].HasField("swish_param")
    assert read_weights(new)[0].blobs[0].tolist() == [0, 1, 2]


def test_upgrade_tool_reports_fields_of_a_v1_fork_that_have_numbers_only(tmp_path, capsys):
    old, new = tmp_path / "old.caffemodel", tmp_path / "new.caffemodel"
    old.write_bytes(block(2, block(4, b"up") + number_field(5, 8) + block(43, b"\x08\x02")))
    assert upgrade_net_proto_binary.main([str(old), str(new)]) == 1
    message = "layer 'up': fields of a fork are left out, known by number only: 43"
    assert message in capsys.readouterr().err
    assert pb.NetParameter.FromString(new.read_bytes()).layer[0].type == "Flatten"


# Blobs of NVIDIA's fork


@pytest.mark.parametrize(("kind", "dtype"), [(0, "<f8"), (1, "<f4"), (2, "<f2")])
def test_raw_data_of_nvidia_is_read_as_weights_and_upgraded(tmp_path, kind, dtype):
    values = np.array([0.5, -2, 3], dtype)
    raw = block(7, block(1, b"\x03")) + number_field(10, kind) + block(12, values.tobytes())
    old, new = tmp_path / "old.caffemodel", tmp_path / "new.caffemodel"
    old.write_bytes(block(100, block(1, b"ip") + block(2, b"InnerProduct") + block(7, raw)))
    (weights,) = read_weights(old)
    assert weights.blobs[0].dtype == np.float32
    assert weights.blobs[0].tolist() == [0.5, -2, 3]
    assert upgrade_net_proto_binary.main([str(old), str(new)]) == 0
    blob = pb.NetParameter.FromString(new.read_bytes()).layer[0].blobs[0]
    assert (list(blob.data), list(blob.shape.dim)) == ([0.5, -2, 3], [3])
    assert values.tobytes() not in new.read_bytes() or dtype == "<f4"


def test_raw_data_of_another_type_is_refused(tmp_path):
    path = tmp_path / "old.caffemodel"
    raw = number_field(10, 3) + block(12, b"abcd")
    path.write_bytes(block(100, block(1, b"ip") + block(7, raw)))
    with pytest.raises(CaffeKDError, match="raw_data that is neither float16, float32 nor"):
        read_weights(path)


# Hostile files


def test_damaged_files_of_forks_are_one_clear_error_or_another_net(tmp_path):
    whole = b"".join(
        [
            block(10, b"") + layer("KnowledgeDistillation", block(147, TEMPERATURE)),
            layer("BN", block(45, number_field(3, 1)), number_field(145, 2)),
            layer("Pooling", block(121, POOLING_OF_INTEL), block(149, b"MKLDNN")),
        ]
    )
    rng = random.Random(0)
    path, copy = tmp_path / "f.caffemodel", tmp_path / "g.caffemodel"
    refused = 0
    for index in range(600):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data[: rng.randrange(1, len(data))] if index % 3 == 0 else data)
        refused += upgrade_net_proto_binary.main([str(path), str(copy)])
    assert 100 < refused < 600

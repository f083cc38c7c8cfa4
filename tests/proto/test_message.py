"""Whole nets in binary, good and bad."""

from __future__ import annotations

import pytest

from caffe_kd.core.errors import ParseError
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto.message import read_net, write_net

UNKNOWN_FIELD = b"\xfa\x7f\x03abc"  # number 2047


def net_with_blobs():
    net = pb.NetParameter(name="n")
    layer = net.layer.add(name="ip", type="InnerProduct")
    layer.blobs.add(num=1, channels=1, height=1, width=2, data=[1, 2], diff=[3, 4])
    layer.blobs.add(double_data=[0.1], shape=pb.BlobShape(dim=[1]))
    return net


def test_net_comes_back_whole(tmp_path):
    path = tmp_path / "n.caffemodel"
    write_net(path, net_with_blobs())
    assert read_net(path) == net_with_blobs()


def test_unknown_fields_survive(tmp_path):
    path, copy = tmp_path / "n.caffemodel", tmp_path / "copy.caffemodel"
    path.write_bytes(net_with_blobs().SerializeToString() + UNKNOWN_FIELD)
    write_net(copy, read_net(path))
    assert copy.read_bytes() == path.read_bytes()


def test_places_in_a_file_are_not_believed(tmp_path):
    path = tmp_path / "n.caffemodel"
    net = net_with_blobs()
    net.layer[0].source_line = "elsewhere:1"
    write_net(path, net)
    assert read_net(path).layer[0].source_line == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "is empty"),
        (b'name: "n" layers { }', "is not a caffemodel but text, such as a prototxt"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file, which holds weights but no net"),
        (b"\xa2\x06\x10\x0a\x02ip", "is it truncated?"),
        (b"\xa2\x06\x04\x0a\x02ip\xa2\x06\x04\x42\x02\x08", "is not a caffemodel, or is damaged"),
    ],
)
def test_what_is_no_net_is_an_error(tmp_path, content, message):
    path = tmp_path / "n.caffemodel"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ParseError) as caught:
        read_net(path)
    assert str(path) in str(caught.value) and message in str(caught.value)

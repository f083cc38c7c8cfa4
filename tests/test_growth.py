"""Small files that unpack to much: each reader takes at most 4 times the file and 64 MB."""

from __future__ import annotations

import gzip
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from caffe_kd.data.backends.idx import open_idx
from caffe_kd.data.hdf5 import HDF5Rows
from caffe_kd.data.image_list import read_list
from caffe_kd.data.windows import read_windows
from caffe_kd.logs.log_parser import parse_log
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.proto.binary import read_weights
from caffe_kd.proto.onnx_file import read_ports
from caffe_kd.proto.wire import header
from caffe_kd.verify.recording import read_recording, write_recording

from .growth import check_growth, needs_proc

pytestmark = needs_proc

MB = 1 << 20


def read_net(path: Path) -> None:
    text.read(path, pb.NetParameter())


@pytest.mark.parametrize(
    ("before", "part", "after"),
    [
        ("", "layer{}\n", ""),
        ("", "layers{layer{}}", ""),
        ("", "input_shape{}", ""),
        ("layer{", "include{}", "}"),
        ("input_shape{dim:[", "1,", "1]}"),
        ("layer{proposal_param{", "a:1 ", "}}"),
        ('name:"', r"\n", '"'),
    ],
)
def test_prototxt_of_countless_small_blocks_stays_small(
    tmp_path: Path, before: str, part: str, after: str
) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(before + part * (MB // len(part)) + after)
    check_growth(read_net, path)


def test_prototxt_beyond_all_measure_is_refused_with_what_is_right(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_bytes(b"#" * (9 * MB))
    assert "weights belong in a .caffemodel" in check_growth(read_net, path)


def test_net_of_ten_thousand_layers_is_read(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    layer = (
        'layer {{ name: "conv{0}" type: "Convolution" bottom: "b{0}" top: "b{1}" param {{ lr_mult: '
        "1 }} param {{ lr_mult: 2 }} convolution_param {{ num_output: 8 weight_filler {{ type: "
        '"xavier" }} }} }}\n'
    )
    path.write_text("".join(layer.format(i, i + 1) for i in range(10_000)))
    assert len(text.read(path, pb.NetParameter()).layer) == 10_000


def test_recording_of_one_value_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.zeros(100 * MB, np.uint8))
    assert path.stat().st_size < MB
    assert "may grow to" in check_growth(read_recording, path)


def test_recording_of_our_own_is_read_whatever_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_recording(path, {"x": np.zeros(60 * MB, np.uint8)})
    assert read_recording(path)["x"].nbytes == 60 * MB


def test_recording_of_countless_members_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"")
    path.write_bytes(path.read_bytes() + b"PK\x01\x02" * 20_000)
    assert "more than 10000 arrays" in check_growth(read_recording, path)


def write_idx(folder: Path, images: int, labels: int) -> Path:
    head = struct.pack(">IIII", 0x803, images, 1000, 1000)
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(head + bytes(images * 10**6), 9))
    head = struct.pack(">II", 0x801, labels)
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(head + bytes(labels)))
    return path


@pytest.mark.parametrize(
    ("labels", "message"), [(5, "images and labels differ in number"), (100, "may grow to")]
)
def test_idx_that_unpacks_to_much_is_refused(tmp_path: Path, labels: int, message: str) -> None:
    path = write_idx(tmp_path, images=100, labels=labels)
    assert path.stat().st_size < MB
    assert message in check_growth(lambda p: open_idx(str(p), Path), path)


def in_weights(file: h5py.File) -> h5py.Group:
    return file.create_group("data/ip1")


def in_rows(file: h5py.File) -> h5py.Group:
    return file


def read_rows(path: Path) -> None:
    path.with_name("list").write_text(path.name)
    rows = HDF5Rows(path.with_name("list"), ["0"])
    rows.read(np.arange(1))


@pytest.mark.parametrize(("place", "read"), [(in_weights, read_weights), (in_rows, read_rows)])
@pytest.mark.parametrize("kind", ["many values", "one chunk", "a chunk that holds more"])
def test_hdf5_that_unpacks_to_much_is_refused(
    tmp_path: Path, place: Callable[[h5py.File], h5py.Group], read: Callable[..., None], kind: str
) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        group = place(file)
        if kind == "many values":
            data = np.zeros((100, MB // 4), np.float32)
            group.create_dataset("0", data=data, chunks=(1, MB // 4), compression=9)
        elif kind == "one chunk":
            group.create_dataset(
                "0", (10,), np.float32, chunks=(100 * MB,), maxshape=(None,), compression=9
            )[:1] = 1
        else:
            # HDF5 1.14 gives the length of a chunk of 10 values 2 bytes, too few for this one.
            made = group.create_dataset("0", (300,), np.float32, chunks=(300,), compression=9)
            made.id.write_direct_chunk((0,), zlib.compress(bytes(200 * MB), 9))
    assert path.stat().st_size < MB
    message = check_growth(read, path)
    assert "may grow to" in message or "decompresses to more than its" in message


def test_image_list_of_countless_lines_stays_small(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes(b"a 1\n" * 1_500_000)
    check_growth(read_list, path)
    assert read_list(path).paths[1_499_999] == "a"


@pytest.mark.parametrize("content", [b"1 1 1 1 1 1\n" * 500_000, b"1 0.5 1 1 1 1\n" * 400_000])
def test_windows_of_one_image_stay_small(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "windows"
    path.write_bytes(b"# 0\na.jpg\n3\n5\n5\n%d\n" % content.count(b"\n") + content)
    check_growth(lambda p: read_windows(p, 0.5, 0.5), path)


@pytest.mark.parametrize("part", [b"\xa2\x06\x00", b"\x3a\x02\x08\x00"])
def test_caffemodel_of_countless_fields_is_refused(tmp_path: Path, part: bytes) -> None:
    path = tmp_path / "a.caffemodel"
    content = part * 400_000
    path.write_bytes(content if part[0] == 0xA2 else header(100, len(content)) + content)
    assert "more than 200000 fields" in check_growth(read_weights, path)


def test_onnx_model_of_countless_nodes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    nodes = header(1, 0) * 500_000
    path.write_bytes(header(7, len(nodes)) + nodes)
    assert "fields" in check_growth(read_ports, path)


def test_log_of_countless_short_lines_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("".join(f"Iteration {i}, loss = 1\n" for i in range(500_000)))
    assert "may grow to" in check_growth(parse_log, path)

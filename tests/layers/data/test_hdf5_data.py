from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from caffe_kd.core.errors import CaffeKDError, NetError
from caffe_kd.net import Net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text

ROWS = (5, 3)  # in two files


@pytest.fixture
def source(tmp_path: Path) -> Path:
    first = 0
    for number, rows in enumerate(ROWS):
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            values = np.arange(first, first + rows, dtype=np.float32)
            file["data"] = values[:, None] * np.ones((1, 2), np.float32)
            file["label"] = values
        first += rows
    (tmp_path / "list.txt").write_text("0.h5\n1.h5\n")
    return tmp_path / "list.txt"


def hdf5_net(source: Path, batch: int, shuffle: bool = False, extra: str = "") -> Net:
    param = text.parse(
        f'layer {{ name: "h" type: "HDF5Data" top: "data" top: "label" {extra} hdf5_data_param {{'
        f' source: "{source.as_posix()}" batch_size: {batch} shuffle: {str(shuffle).lower()} }} }}',
        pb.NetParameter(),
        "net.prototxt",
    )
    return Net(param, pb.TRAIN)


def labels_of(net: Net, batches: int) -> list[float]:
    labels: list[float] = []
    for _ in range(batches):
        net()
        assert torch.equal(net.blobs["data"][:, 1], net.blobs["label"])
        labels += net.blobs["label"].tolist()
    return labels


def test_rows_come_file_after_file_and_start_over(source: Path) -> None:
    net = hdf5_net(source, batch=6)
    assert net.shapes == {"data": (6, 2), "label": (6,)}
    assert labels_of(net, 4) == [float(i % 8) for i in range(24)]


def test_batch_larger_than_all_rows_wraps(source: Path) -> None:
    assert labels_of(hdf5_net(source, batch=20), 1) == [float(i % 8) for i in range(20)]


def test_shuffle_gives_every_row_once_a_pass_and_follows_the_seed(source: Path) -> None:
    def passes() -> list[list[float]]:
        torch.manual_seed(1)
        net = hdf5_net(source, batch=8, shuffle=True)
        return [labels_of(net, 1) for _ in range(4)]

    seen = passes()
    assert all(sorted(labels) == [float(i) for i in range(8)] for labels in seen)
    assert len({tuple(labels) for labels in seen}) > 1
    assert seen == passes()


def test_batch_size_zero_is_reported_with_its_line(source: Path) -> None:
    with pytest.raises(NetError, match=r"net.prototxt:1: layer 'h' \(HDF5Data\): batch_size"):
        hdf5_net(source, batch=0)


def test_transform_param_is_refused(source: Path) -> None:
    with pytest.raises(NetError, match="does not transform data"):
        hdf5_net(source, batch=1, extra="transform_param { scale: 2 }")


def test_truncated_file_names_layer_and_file(source: Path) -> None:
    file = source.with_name("1.h5")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CaffeKDError, match=r"net.prototxt:1: layer 'h' \(HDF5Data\): .*1\.h5"):
        hdf5_net(source, batch=1)

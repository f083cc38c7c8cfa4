from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_kd.data.idx import write_idx
from caffe_kd.errors import CaffeKDError, DataError, NetError
from caffe_kd.net import Net, load_net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text

GOLDEN = Path(__file__).parents[1] / "golden" / "data"
EXACT = 1e-3  # the recordings' own tolerance: pixels are whole numbers, means are float32


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Ten records of 2 x 3 pixels whose values and labels tell which record they are."""
    images = np.arange(10, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 3), np.uint8)
    write_idx(tmp_path / "images-idx3-ubyte", images)
    write_idx(tmp_path / "labels-idx1-ubyte", np.arange(10, dtype=np.uint8))
    return tmp_path / "images-idx3-ubyte"


def data_net(source: Path, batch: int, extra: str = "", phase: int = pb.TEST) -> Net:
    param = text.parse(
        f'layer {{ name: "d" type: "Data" top: "data" top: "label" {extra}'
        f' data_param {{ source: "{source.as_posix()}" batch_size: {batch} backend: IDX }} }}',
        pb.NetParameter(),
        "net.prototxt",
    )
    return Net(param, phase)


@pytest.mark.parametrize(
    "name", ["raw", "leveldb", "encoded", "crop", "mean_file", "mean_file_crop"]
)
def test_three_batches_equal_the_original(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shutil.copytree(GOLDEN, tmp_path / "data"))
    recorded = np.load(f"{name}.npz")
    net = load_net(f"{name}.prototxt", pb.TEST)
    for batch in range(3):
        net()
        for top in ("data", "label"):
            wanted = recorded[f"batch{batch}/{top}"]
            np.testing.assert_allclose(net.blobs[top].numpy(), wanted, rtol=0, atol=EXACT)


def test_records_come_in_order_and_start_over(digits: Path) -> None:
    net = data_net(digits, batch=4)
    told: list[str] = []
    net.context.notify = told.append
    labels = []
    for _ in range(5):
        net()
        labels += net.blobs["label"].tolist()
        assert torch.equal(net.blobs["data"][:, 0, 0, 0], net.blobs["label"])
    assert labels == [float(i % 10) for i in range(20)]
    assert told == ["Restarting data prefetching from start."] * 2


def test_shapes_are_known_before_the_first_batch(digits: Path) -> None:
    net = data_net(digits, batch=4, extra="transform_param { crop_size: 2 }")
    assert net.shapes == {"data": (4, 1, 2, 2), "label": (4,)}
    net()
    assert net.blobs["data"].shape == (4, 1, 2, 2)


def test_mirror_is_random_and_follows_the_seed(digits: Path) -> None:
    def seen() -> list[torch.Tensor]:
        torch.manual_seed(3)
        net = data_net(digits, batch=10, extra="transform_param { mirror: true }")
        batches = []
        for _ in range(2):
            net()
            batches.append(net.blobs["data"])
        return batches

    assert all(torch.equal(a, b) for a, b in zip(seen(), seen(), strict=True))


def test_batch_size_zero_is_told_with_its_line(digits: Path) -> None:
    with pytest.raises(NetError, match=r"net.prototxt:1: layer 'd' \(Data\): batch_size must be"):
        data_net(digits, batch=0)


def test_missing_source_names_layer_and_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"net.prototxt:1: layer 'd' \(Data\): .*absent"):
        data_net(tmp_path / "absent-images-idx3-ubyte", batch=1)


def test_truncated_source_is_refused(digits: Path) -> None:
    digits.write_bytes(digits.read_bytes()[:-1])
    with pytest.raises(CaffeKDError, match="images-idx3-ubyte"):
        data_net(digits, batch=1)

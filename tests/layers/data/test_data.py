from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from caffe_kd.core.errors import CaffeKDError, DataError, NetError
from caffe_kd.data import datum
from caffe_kd.data.backends.idx import write_idx
from caffe_kd.data.backends.lmdb import write_lmdb
from caffe_kd.net import Net, load_net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from tests.helpers import make_net

GOLDEN = Path(__file__).parents[2] / "golden" / "data"
EXACT = 1e-3  # the recordings' own tolerance: pixels are whole numbers, means are float32


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Ten samples of 2 x 3 pixels whose values and labels say which sample they are."""
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
    "name",
    ["raw", "leveldb", "encoded", "crop", "mean_file", "mean_file_crop", "mean_value3"],
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
    notes: list[str] = []
    net.context.notify = notes.append
    labels = []
    for _ in range(5):
        net()
        labels += net.blobs["label"].tolist()
        assert torch.equal(net.blobs["data"][:, 0, 0, 0], net.blobs["label"])
    assert labels == [float(i % 10) for i in range(20)]
    assert notes == ["Restarting data prefetching from start."] * 2


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


def golden_net(database: str, transform: str, param: str = "") -> Net:
    return make_net(
        f'layer {{ name: "d" type: "Data" top: "data" transform_param {{ {transform} }} '
        f'data_param {{ source: "{(GOLDEN / database).as_posix()}" backend: LMDB batch_size: 2 '
        f"{param} }} }}"
    )


def test_images_of_several_sizes_take_a_crop(tmp_path: Path) -> None:
    datums = [
        pb.Datum(channels=1, height=h, width=w, data=bytes([i]) * (h * w), label=i)
        for i, (h, w) in enumerate([(5, 4), (4, 7), (6, 6)])
    ]
    write_lmdb(tmp_path / "db", ((b"%d" % i, d.SerializeToString()) for i, d in enumerate(datums)))

    def net(transform: str, batch: int) -> Net:
        return make_net(
            f'layer {{ name: "d" type: "Data" top: "data" top: "label" {transform} data_param {{ '
            f'source: "{(tmp_path / "db").as_posix()}" backend: LMDB batch_size: {batch} }} }}'
        )

    cropped = net("transform_param { crop_size: 4 }", 3)
    cropped()
    assert cropped.blobs["data"].shape == (3, 1, 4, 4)
    assert cropped.blobs["data"][:, 0, 3, 3].tolist() == [0, 1, 2]
    single = net("", 1)
    shapes = []
    for _ in range(3):
        single()
        shapes.append(tuple(single.blobs["data"].shape))
    assert shapes == [(1, 1, 5, 4), (1, 1, 4, 7), (1, 1, 6, 6)]


@pytest.mark.parametrize(
    ("transform", "param", "channels"),
    [
        ("", "", [1, 3]),
        ("force_color: true", "", [3, 3]),
        ("force_gray: true", "", [1, 1]),
        ("", "force_encoded_color: true", [3, 3]),
    ],
)
def test_encoded_images_are_forced_to_colour_or_grey(
    transform: str, param: str, channels: list[int], tmp_path: Path
) -> None:
    for mode, wanted in zip(("L", "RGB"), channels, strict=True):
        file = io.BytesIO()
        Image.new(mode, (4, 3)).save(file, "PNG")
        record = pb.Datum(encoded=True, data=file.getvalue()).SerializeToString()
        write_lmdb(tmp_path / mode, [(b"0", record)])
        net = golden_net(str(tmp_path / mode), transform, param)
        net()
        assert net.blobs["data"].shape == (2, wanted, 3, 4)


def test_raw_records_stay_as_they_are_and_it_is_reported() -> None:
    net = golden_net("raw_lmdb", "force_gray: true")
    notes: list[str] = []
    net.context.notify = notes.append
    net()
    assert net.blobs["data"].shape == (2, 3, 20, 24)
    assert notes == ["layer 'd': force_color and force_gray only for encoded datum"]


def test_colour_and_grey_at_once_are_refused() -> None:
    with pytest.raises(NetError, match="cannot set both force_color and force_gray"):
        golden_net("png_lmdb", "force_color: true force_gray: true")


def test_encoded_records_are_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    net = make_net(
        f'layer {{ name: "d" type: "Data" top: "data" data_param {{ backend: LMDB batch_size: 10 '
        f'source: "{(GOLDEN / "png_lmdb").as_posix()}" }} }}'
    )
    net()
    first = net.blobs["data"]

    def decode(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(datum, "decode_datum", decode)
    for _ in range(6):  # more than were made ahead
        net()
        assert torch.equal(net.blobs["data"], first)


def test_batch_size_zero_is_refused_with_its_line(digits: Path) -> None:
    with pytest.raises(NetError, match=r"net.prototxt:1: layer 'd' \(Data\): batch_size must be"):
        data_net(digits, batch=0)


def test_missing_source_names_layer_and_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"net.prototxt:1: layer 'd' \(Data\): .*absent"):
        data_net(tmp_path / "absent-images-idx3-ubyte", batch=1)


def test_truncated_source_is_refused(digits: Path) -> None:
    digits.write_bytes(digits.read_bytes()[:-1])
    with pytest.raises(CaffeKDError, match="images-idx3-ubyte"):
        data_net(digits, batch=1)


def chosen_net(source: Path, chosen: str, batch: int = 2) -> Net:
    return make_net(
        f'layer {{ name: "d" type: "Data" top: "data" top: "label" data_param {{ backend: IDX '
        f'source: "{source.as_posix()}" batch_size: {batch} {chosen} }} }}'
    )


def test_chosen_records_come_in_order_and_start_over(digits: Path) -> None:
    net = chosen_net(digits, "first: 2 count: 5 leave_out: 4")
    labels = []
    for _ in range(4):
        net()
        labels += net.blobs["label"].tolist()
        assert torch.equal(net.blobs["data"][:, 0, 0, 0], net.blobs["label"])
    assert labels == [2, 3, 5, 6, 2, 3, 5, 6]


def test_chosen_records_go_on_where_they_were(digits: Path) -> None:
    net = chosen_net(digits, "first: 3 count: 5")
    net()
    layer = net.nodes[0].layer
    state = layer.state()
    net()
    wanted = net.blobs["label"].tolist()
    other = chosen_net(digits, "first: 3 count: 5")
    other.nodes[0].layer.restore(state)
    other()
    assert other.blobs["label"].tolist() == wanted == [5, 6]
    assert layer.sample_count == 5


def test_choice_beyond_the_records_names_the_layer(digits: Path) -> None:
    with pytest.raises(
        DataError, match=r"layer 'd' \(Data\): .*first: 8, count: 5, and 10 samples"
    ):
        chosen_net(digits, "first: 8 count: 5")


def numbered_net(source: Path, batch: int, chosen: str = "") -> Net:
    return make_net(
        f'layer {{ name: "d" type: "Data" top: "data" top: "label" top: "index" data_param {{ '
        f'backend: IDX source: "{source.as_posix()}" batch_size: {batch} {chosen} }} }}'
    )


def test_third_top_numbers_the_records(digits: Path) -> None:
    net = numbered_net(digits, 4)
    assert net.shapes["index"] == (4,)
    for _ in range(5):
        net()
        assert torch.equal(net.blobs["index"], net.blobs["label"])  # each label is its number
    assert net.blobs["index"].tolist() == [6, 7, 8, 9]


def test_third_top_numbers_chosen_records_from_zero(digits: Path) -> None:
    net = numbered_net(digits, 3, "first: 2 count: 5 leave_out: 4")
    seen = []
    for _ in range(2):
        net()
        seen += zip(net.blobs["label"].tolist(), net.blobs["index"].tolist(), strict=True)
    assert seen == [(2, 0), (3, 1), (5, 2), (6, 3), (2, 0), (3, 1)]


def test_more_records_than_a_blob_can_number_are_refused(tmp_path: Path) -> None:
    many = 2**24 + 1
    write_idx(tmp_path / "images-idx3-ubyte", np.zeros((many, 1, 1), np.uint8))
    write_idx(tmp_path / "labels-idx1-ubyte", np.zeros(many, np.uint8))
    numbered_net(tmp_path / "images-idx3-ubyte", 2, "first: 1")
    with pytest.raises(NetError, match=f"numbers 16777216 samples at most.*samples={many}"):
        numbered_net(tmp_path / "images-idx3-ubyte", 2)

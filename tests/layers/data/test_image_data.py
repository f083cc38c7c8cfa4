from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from caffe_kd.core.errors import CaffeKDError, DataError, MissingFile, NetError
from caffe_kd.net import Net, load_net
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import make_net

GOLDEN = Path(__file__).parents[2] / "golden" / "data"
# JPEG decoders differ by a level or two, as the recordings' own check grants.
MOST, MEAN = 3.0, 0.1
COUNT = 10


def save(path: Path, value: int, size: tuple[int, int] = (6, 5)) -> None:
    """Write an image of one colour: blue is ``value``, green 100, red 200."""
    pixels = np.empty((*size, 3), np.uint8)
    pixels[:] = (200, 100, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Ten images whose blue says which one it is, as its label does."""
    for index in range(COUNT):
        save(tmp_path / f"in a folder/{index}.png", index)
    lines = "".join(f"in a folder/{index}.png {index}\n" for index in range(COUNT))
    (tmp_path / "list.txt").write_text(lines)
    return tmp_path / "list.txt"


def image_net(
    source: Path, batch: int = 4, param: str = "", extra: str = "", phase: int = pb.TRAIN
) -> Net:
    return make_net(
        f'layer {{ name: "i" type: "ImageData" top: "data" top: "label" {extra}'
        f' image_data_param {{ source: "{source.as_posix()}" batch_size: {batch} {param} }} }}',
        phase,
    )


def labels_of(net: Net, batches: int) -> list[float]:
    labels: list[float] = []
    for _ in range(batches):
        net()
        assert torch.equal(net.blobs["data"][:, 0, 0, 0], net.blobs["label"])
        labels += net.blobs["label"].tolist()
    return labels


@pytest.mark.parametrize("name", ["image", "image_resize"])
def test_three_batches_equal_the_original(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shutil.copytree(GOLDEN, tmp_path / "data"))
    recorded = np.load(f"{name}.npz")
    net = load_net(f"{name}.prototxt", pb.TEST)
    for batch in range(3):
        net()
        wanted = recorded[f"batch{batch}/data"]
        assert net.blobs["data"].shape == wanted.shape
        off = np.abs(net.blobs["data"].numpy() - wanted)
        assert off.max() <= MOST and off.mean() <= MEAN
        np.testing.assert_array_equal(net.blobs["label"], recorded[f"batch{batch}/label"])


def test_images_come_in_order_as_bgr_and_start_over(source: Path) -> None:
    net = image_net(source)
    notes: list[str] = []
    net.context.notify = notes.append
    assert net.shapes == {"data": (4, 3, 6, 5), "label": (4,)}
    assert labels_of(net, 5) == [float(i % COUNT) for i in range(20)]
    assert net.blobs["data"][0, :, 0, 0].tolist() == [6, 100, 200]
    assert notes == ["Restarting data prefetching from start."] * 2


def test_without_colour_there_is_one_channel(source: Path) -> None:
    net = image_net(source, param="is_color: false")
    net()
    luma = 0.299 * 200 + 0.587 * 100 + 0.114 * 0
    assert net.blobs["data"].shape == (4, 1, 6, 5)
    assert abs(float(net.blobs["data"][0, 0, 0, 0]) - luma) <= 1


def test_shuffle_gives_every_image_once_a_pass_in_another_order(source: Path) -> None:
    def passes() -> list[list[float]]:
        torch.manual_seed(1)
        net = image_net(source, batch=5, param="shuffle: true")
        return [labels_of(net, 2) for _ in range(4)]

    seen = passes()
    assert all(sorted(labels) == [float(i) for i in range(COUNT)] for labels in seen)
    assert len({tuple(labels) for labels in seen}) == 4
    assert seen == passes()


def test_rand_skip_begins_anywhere_below_it(source: Path) -> None:
    begun = set()
    for seed in range(40):
        torch.manual_seed(seed)
        net = image_net(source, batch=1, param="rand_skip: 3")
        notes: list[str] = []
        net.context.notify = notes.append
        first = labels_of(net, 1)[0]
        assert f"Skipping first {first:g} data points." in notes
        begun.add(first)
    assert begun == {0.0, 1.0, 2.0}


def test_rand_skip_beyond_the_list_is_reported(source: Path) -> None:
    torch.manual_seed(0)
    with pytest.raises(NetError, match=r"layer 'i' \(ImageData\): Not enough points to skip"):
        image_net(source, param="rand_skip: 4000000000")


def test_root_folder_stands_before_each_path_as_it_is(tmp_path: Path) -> None:
    save(tmp_path / "set_a.png", 7)
    (tmp_path / "list.txt").write_text("a.png 7\n")
    root = (tmp_path / "set_").as_posix()
    assert labels_of(image_net(tmp_path / "list.txt", 1, f'root_folder: "{root}"'), 1) == [7.0]


def test_label_stands_after_the_last_space_and_may_be_negative(tmp_path: Path) -> None:
    save(tmp_path / "a 3.png", 0)
    (tmp_path / "list.txt").write_text("a 3.png -2\r\n")
    net = image_net(tmp_path / "list.txt", 1)
    net()
    assert net.blobs["label"].tolist() == [-2.0]


def test_images_of_several_sizes_take_a_crop(source: Path) -> None:
    save(source.parent / "in a folder/1.png", 1, (9, 4))
    cropped = image_net(source, extra="transform_param { crop_size: 4 mean_value: 1 }")
    cropped()
    assert cropped.blobs["data"].shape == (4, 3, 4, 4)
    assert cropped.blobs["data"][:, 0, 3, 3].tolist() == [-1, 0, 1, 2]
    with pytest.raises(DataError, match="must have one size, .*Received: 6 x 5 and 9 x 4"):
        image_net(source)()


def test_images_of_several_sizes_in_single_batches_make_blobs_of_their_size(source: Path) -> None:
    save(source.parent / "in a folder/1.png", 1, (9, 4))
    net = image_net(source, batch=1)
    shapes = []
    for _ in range(3):
        net()
        shapes.append(tuple(net.blobs["data"].shape))
    assert shapes == [(1, 3, 6, 5), (1, 3, 9, 4), (1, 3, 6, 5)]


def test_second_pass_does_not_read_the_files_again(source: Path) -> None:
    net = image_net(source, batch=COUNT)
    first = labels_of(net, 1)
    shutil.rmtree(source.parent / "in a folder")
    assert labels_of(net, 3) == first * 3


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_bad_image_names_file_and_line_of_the_list(source: Path, content: bytes | None) -> None:
    bad = source.parent / "in a folder/5.png"
    bad.unlink() if content is None else bad.write_bytes(content)
    net = image_net(source)
    assert labels_of(net, 1) == [0.0, 1.0, 2.0, 3.0]
    wanted = r"list\.txt:6: Could not load .*in a folder/5\.png: "
    with pytest.raises((DataError, MissingFile), match=wanted):
        net()


def test_bad_first_image_names_layer_and_line(source: Path) -> None:
    (source.parent / "in a folder/0.png").write_bytes(b"GIF89a")
    wanted = r"net.prototxt:1: layer 'i' \(ImageData\): .*list\.txt:1: Could not load"
    with pytest.raises(DataError, match=wanted):
        image_net(source)


def test_missing_list_names_layer_and_file(tmp_path: Path) -> None:
    with pytest.raises(CaffeKDError, match=r"layer 'i' \(ImageData\): .*absent\.txt: no such"):
        image_net(tmp_path / "absent.txt")


@pytest.mark.parametrize(
    ("param", "message"),
    [
        ("new_height: 5", "new_height and new_width to be set at the same time"),
        ("new_width: 5", "new_height and new_width to be set at the same time"),
    ],
)
def test_wrong_settings_are_refused_with_their_line(source: Path, param: str, message: str) -> None:
    with pytest.raises(NetError, match=r"net.prototxt:1: layer 'i' \(ImageData\): .*" + message):
        image_net(source, param=param)


def test_batch_size_zero_is_refused_with_its_line(source: Path) -> None:
    with pytest.raises(NetError, match=r"net.prototxt:1: .*Positive batch size required"):
        image_net(source, batch=0)


def test_absurd_new_size_is_refused_before_memory_is_taken(source: Path) -> None:
    with pytest.raises(DataError, match=r"layer 'i' \(ImageData\): 100000 x 100000 pixels"):
        image_net(source, param="new_height: 100000 new_width: 100000")

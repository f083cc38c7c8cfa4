from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from caffe_kd.core.errors import CaffeKDError, DataError, NetError
from caffe_kd.data.image_file import resize_image
from caffe_kd.layers.data.window_data import WindowData
from caffe_kd.net import Net
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import make_net

SIZES = [(40, 50), (33, 21)]
CROP = 16
MEAN = np.random.default_rng(5).uniform(90, 160, (3, 20, 20)).astype(np.float32)


def box_lines(rng: np.random.Generator, size: tuple[int, int], count: int) -> list[str]:
    """Boxes in an image, the first ones at its corners."""
    height, width = size
    boxes = [(0, 0, width - 1, height - 1), (width - 6, height - 9, width - 1, height - 1)]
    while len(boxes) < count:
        x, y = np.sort(rng.integers(0, width, 2)), np.sort(rng.integers(0, height, 2))
        boxes.append((int(x[0]), int(y[0]), int(x[1]), int(y[1])))
    overlaps = [0.9, 0.2, 0.3, 0.6, 0.1, 0.45, 0.7, 0.0]
    return [
        f"{1 + index % 3} {overlaps[index % 8]} {x1} {y1} {x2} {y2}"
        for index, (x1, y1, x2, y2) in enumerate(boxes)
    ]


@pytest.fixture(autouse=True)
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Two images, BGR [3, H, W], with windows.txt of 24 windows each, and a mean image."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    made, text = [], ""
    for index, size in enumerate(SIZES):
        pixels = rng.integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(f"{index}.png")
        made.append(pixels[:, :, ::-1].transpose(2, 0, 1))
        lines = box_lines(rng, size, 24)
        head = [f"# {index}", f"{index}.png", "3", *map(str, size), str(len(lines))]
        text += "\n".join([*head, *lines]) + "\n"
    Path("windows.txt").write_text(text)
    blob = pb.BlobProto(num=1, channels=3, height=20, width=20, data=MEAN.ravel())
    Path("mean").write_bytes(blob.SerializeToString())
    return made


def window_net(param: str = "", transform: str = "", batch: int = 8, phase: int = pb.TRAIN) -> Net:
    return make_net(
        'layer { name: "w" type: "WindowData" top: "data" top: "label" '
        f"transform_param {{ crop_size: {CROP} {transform} }} "
        f'window_data_param {{ source: "windows.txt" batch_size: {batch} {param} }} }}',
        phase,
    )


def layer_of(net: Net) -> WindowData:
    layer = net.nodes[0].layer
    assert isinstance(layer, WindowData)
    return layer


def c_round(value: float) -> int:
    return int(math.floor(abs(value) + 0.5) * (1 if value >= 0 else -1))


def plainly(
    image: np.ndarray, box: tuple[int, ...], pad: int, square: bool, mirror: bool, mean: np.ndarray
) -> np.ndarray:
    """Show a window pixel by pixel, as the layer's rule says; ``mean`` is [3, 20, 20]."""
    f = np.float32
    x1, y1, x2, y2 = box
    rows, columns = image.shape[1:]
    wide = high = CROP
    left = top = 0
    if pad > 0 or square:
        grow = f(CROP) / f(CROP - 2 * pad)
        half_w, half_h = f(x2 - x1 + 1) / f(2), f(y2 - y1 + 1) / f(2)
        at_x, at_y = f(x1) + half_w, f(y1) + half_h
        if square and half_h > half_w:
            half_w = half_h
        elif square:
            half_h = half_w
        x1, x2 = c_round(at_x - half_w * grow), c_round(at_x + half_w * grow)
        y1, y2 = c_round(at_y - half_h * grow), c_round(at_y + half_h * grow)
        by_x, by_y = f(CROP) / f(x2 - x1 + 1), f(CROP) / f(y2 - y1 + 1)
        out_left, out_top = max(0, -x1), max(0, -y1)
        out_right, out_bottom = max(0, x2 - columns + 1), max(0, y2 - rows + 1)
        x1, y1, x2, y2 = x1 + out_left, y1 + out_top, x2 - out_right, y2 - out_bottom
        wide, high = c_round(f(x2 - x1 + 1) * by_x), c_round(f(y2 - y1 + 1) * by_y)
        top = c_round(f(out_top) * by_y)
        left = c_round(f(out_right if mirror else out_left) * by_x)
        high, wide = min(high, CROP - top), min(wide, CROP - left)
    shown = resize_image(np.ascontiguousarray(image[:, y1 : y2 + 1, x1 : x2 + 1]), high, wide)
    crop = np.zeros((3, CROP, CROP), np.float32)
    for channel in range(3):
        for row in range(high):
            for column in range(wide):
                pixel = f(shown[channel, row, wide - 1 - column if mirror else column])
                under = mean[channel, 2 + row + top, 2 + column + left]
                crop[channel, row + top, column + left] = pixel - under
    return crop


@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("pad", [0, 1, 4])
@pytest.mark.parametrize("mirror", [False, True])
def test_windows_equal_a_plain_rewriting(
    images: list[np.ndarray], pad: int, square: bool, mirror: bool
) -> None:
    mode = "square" if square else "warp"
    net = window_net(
        f'context_pad: {pad} crop_mode: "{mode}" bg_threshold: 0.5',
        'mean_file: "mean"' + (" mirror: true" if mirror else ""),
    )
    layer = layer_of(net)
    assert layer.sample_count == 48
    assert layer.deterministic is not mirror
    data, _ = layer.load(slice(0, 48))
    lines = Path("windows.txt").read_text().splitlines()
    boxes = [tuple(map(int, line.split()[2:])) for line in lines if len(line.split()) == 6]
    seen = {True: 0, False: 0}
    for index, (got, box) in enumerate(zip(data.numpy(), boxes, strict=True)):
        image = images[index // 24]
        for flip in {False, mirror}:
            if np.array_equal(got, plainly(image, box, pad, square, flip, MEAN)):
                seen[flip] += 1
                break
    assert sum(seen.values()) == 48
    assert (seen[True] > 10) is mirror


def test_batch_is_background_then_objects() -> None:
    net = window_net("fg_fraction: 0.4 fg_threshold: 0.6 bg_threshold: 0.3", batch=8)
    assert net.shapes == {"data": (8, 3, CROP, CROP), "label": (8,)}
    seen: set[int] = set()
    for _ in range(60):
        net()
        labels = net.blobs["label"].tolist()
        assert labels[:5] == [0.0] * 5 and min(labels[5:]) > 0  # int(8 * 0.4) objects
        last = layer_of(net).last
        assert isinstance(last, np.ndarray)
        seen |= set(last.tolist())
    # Of eight overlaps in a row 0.9, 0.6 and 0.7 are objects; 0.2, 0.1 and 0.0 are background, and
    # so is not 0.3, which equals its threshold in float32; 0.45 is neither.
    assert layer_of(net).sample_count == len(seen) == 6 * 6


def test_mean_values_are_subtracted_inside_alone(images: list[np.ndarray]) -> None:
    plain = layer_of(window_net("context_pad: 4")).load(np.array([0]))[0]
    for mean in ("mean_value: 100", "mean_value: 100 mean_value: 100 mean_value: 100"):
        less = layer_of(window_net("context_pad: 4", mean)).load(np.array([0]))[0]
        changed = plain - less
        assert set(changed.unique().tolist()) == {0.0, 100.0}
        assert changed[0, :, 0].max() == 0 and changed[0, :, 8, 8].min() == 100


def test_draws_follow_the_seed_in_both_phases() -> None:
    def drawn(phase: int, seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        net = window_net(transform="mirror: true", phase=phase)
        batches = []
        for _ in range(3):
            net()
            batches.append(net.blobs["data"])
        return batches

    train, test, other = drawn(pb.TRAIN, 1), drawn(pb.TEST, 1), drawn(pb.TRAIN, 2)
    assert all(torch.equal(a, b) for a, b in zip(train, test, strict=True))
    assert not torch.equal(train[0], train[1]) and not torch.equal(train[0], other[0])


def test_run_goes_on_with_the_same_draws() -> None:
    def next_batch(net: Net) -> torch.Tensor:
        net()
        return net.blobs["data"]

    torch.manual_seed(0)
    net = window_net(transform="mirror: true")
    next_batch(net)
    state = layer_of(net).state()
    wanted = [next_batch(net) for _ in range(3)]
    other = window_net(transform="mirror: true")
    next_batch(other)
    layer_of(other).restore(state)
    assert all(torch.equal(next_batch(other), batch) for batch in wanted)


def test_what_is_there_is_reported_with_the_first_batch() -> None:
    net = window_net("fg_threshold: 0.6 bg_threshold: 0.3", "scale: 2")
    notes: list[str] = []
    net.context.notify = notes.append
    net()
    net()
    assert notes == [  # of each image 9 of 24 are background, and 3 of each class
        "Number of images: 2",
        "class 0 has 18 samples",
        "class 1 has 6 samples",
        "class 2 has 6 samples",
        "class 3 has 6 samples",
        "layer 'w': WindowData does not use scale, as in Caffe",
    ]


def test_cached_images_and_root_folder_give_the_same_pixels(tmp_path: Path) -> None:
    first = layer_of(window_net()).load(np.arange(10))[0]
    (tmp_path / "sub").mkdir()
    for index in range(2):
        Path(f"{index}.png").rename(f"sub/p{index}.png")
    second = layer_of(window_net('cache_images: true root_folder: "sub/p"')).load(np.arange(10))[0]
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("param", "transform", "message"),
    [
        ("", "crop_size: 0", "needs a crop_size greater than 0"),
        ("", "jitter: 1", "leave jitter out"),
        ("context_pad: 8", "", "context_pad must leave room"),
        ("fg_fraction: 1.5", "", "fg_fraction must be in 0..1"),
        ('crop_mode: "round"', "", 'crop_mode is "warp" or "square"'),
        ("fg_threshold: 2", "", "no foreground windows in windows.txt. .*drawn_per_batch=2"),
        ("", "mean_value: 1 mean_value: 2", "either 1 mean_value or as many as channels: 3"),
        ("", 'crop_size: 21 mean_file: "mean"', "the mean must have 3 channels and cover"),
    ],
)
def test_wrong_settings_are_refused_with_their_line(
    param: str, transform: str, message: str
) -> None:
    body = (
        'layer { name: "w" type: "WindowData" top: "data" top: "label" transform_param { '
        + ("" if "crop_size" in transform else "crop_size: 16 ")
        + f"{transform} }} "
        + f'window_data_param {{ source: "windows.txt" batch_size: 8 {param} }} }}'
    )
    with pytest.raises(NetError, match=r"net.prototxt:1: layer 'w' \(WindowData\): .*" + message):
        make_net(body)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("# 1\n", "# 2\n", r'windows\.txt:31: an image begins with "# 1".*Received: "# 2"'),
        ("# 0\n", "0\n", r'windows\.txt:1: an image begins with "# 0"'),
        ("\n3\n40\n", "\n1\n40\n", r"windows\.txt:6: images are read in colour"),
        ("\n24\n", "\nmany\n", r"windows\.txt:6: an integer is expected"),
        ("\n24\n", "\n23\n", r"windows\.txt:30: an image begins with"),
        ("1 0.9 0", "0 0.9 0", r"windows\.txt:30: the class of a foreground window must be great"),
        ("1 0.9 0", "one 0.9 0", r'windows\.txt:7: a window is "class overlap x1 y1 x2 y2"'),
        ("1 0.9 0", "1 0.9", r'windows\.txt:7: a window is "class overlap x1 y1 x2 y2"'),
        ("1 0.9 0", "1 0.9 99999999999", r'windows\.txt:7: a window is "class'),
        ("1 0.9 0", "1 nan 0", r'windows\.txt:7: a window is "class'),
    ],
)
def test_damaged_list_is_refused_with_its_line(old: str, new: str, message: str) -> None:
    text = Path("windows.txt").read_text()
    assert old in text
    Path("windows.txt").write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        window_net()


def test_truncated_empty_and_missing_lists_are_reported() -> None:
    text = Path("windows.txt").read_text()
    Path("windows.txt").write_text(text[: text.index("# 1") - 100])
    with pytest.raises(DataError, match=r"windows\.txt:6: the file ends after \d+ of 24 windows"):
        window_net()
    Path("windows.txt").write_text("# 0\n0.png\n")
    with pytest.raises(DataError, match=r"windows\.txt:3: the file ends, or a line is empty"):
        window_net()
    Path("windows.txt").write_text("\n")
    with pytest.raises(DataError, match="Window file is empty"):
        window_net()
    Path("windows.txt").unlink()
    with pytest.raises(CaffeKDError, match=r"layer 'w' \(WindowData\): windows\.txt: no such file"):
        window_net()


def test_bad_image_and_window_outside_name_their_line() -> None:
    text = Path("windows.txt").read_text()
    Path("windows.txt").write_text(text.replace("0 0 49 39", "0 0 50 39"))
    with pytest.raises(DataError, match=r"windows\.txt:2: the window 0 0 50 39 .* of 50 x 40 pix"):
        layer_of(window_net()).load(np.arange(24))
    Path("1.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"windows\.txt:32: Could not load 1\.png"):
        layer_of(window_net()).load(np.arange(24, 48))

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf import text_format

from caffe_kd.core.errors import CaffeKDError, DataError
from caffe_kd.data.backends import open_source
from caffe_kd.data.transformer import Transformer
from caffe_kd.proto import caffe_pb2

GOLDEN = Path(__file__).parents[1] / "golden" / "data"
LMDB_CASES = [
    "raw", "encoded", "crop", "mean_file", "mean_file_crop", "mean_value3"
]  # fmt: skip


def transformer(text: str, train: bool = False, folder: Path = GOLDEN) -> Transformer:
    param = text_format.Parse(text, caffe_pb2.TransformationParameter())
    return Transformer(param, train, lambda path: folder / path)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(count: int, channels: int, height: int, width: int) -> np.ndarray:
    """Images whose pixel values give their row and column: 16 * row + column, in each channel."""
    plane = 16 * np.arange(height)[:, None] + np.arange(width)
    return np.broadcast_to(plane, (count, channels, height, width)).astype(np.uint8)


def write_mean(path: Path, **fields: object) -> None:
    path.write_bytes(caffe_pb2.BlobProto(**fields).SerializeToString())


@pytest.mark.parametrize("case", LMDB_CASES)
def test_source_and_transformer_give_caffes_batches(case: str) -> None:
    net = text_format.Parse((GOLDEN / f"{case}.prototxt").read_text(), caffe_pb2.NetParameter())
    layer = net.layer[0]
    source = open_source(layer.data_param, lambda path: GOLDEN / path)
    transform = Transformer(layer.transform_param, False, lambda path: GOLDEN / path)
    recorded = np.load(GOLDEN / f"{case}.npz")
    size = layer.data_param.batch_size
    for number in range(3):
        indices = np.arange(number * size, (number + 1) * size) % len(source)
        images, labels = source.batch(indices)
        data = transform(images, generator())
        expected = recorded[f"batch{number}/data"]
        assert (data.dtype, tuple(data.shape)) == (torch.float32, expected.shape)
        assert transform.output_shape(images.shape[1:]) == expected.shape[1:]
        np.testing.assert_array_equal(data.numpy(), expected)
        np.testing.assert_array_equal(labels, recorded[f"batch{number}/label"])


def test_float_samples_are_transformed_like_bytes() -> None:
    images = np.array([-1.5, 0.25, 300], np.float32).reshape(1, 1, 1, 3)
    result = transformer("mean_value: 0.5 scale: 2")(images, generator())
    np.testing.assert_array_equal(result.numpy().ravel(), [-4, -0.5, 599])


def test_input_is_never_changed_nor_shared() -> None:
    images = np.random.default_rng(0).random((3, 2, 4, 4), np.float32)
    before = images.copy()
    for text in ("", "mirror: true", "scale: 3 mean_value: 1", "crop_size: 2"):
        transformer(text, train=True)(images, generator()).fill_(-1)
        np.testing.assert_array_equal(images, before)


def test_read_only_images_are_taken_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    images = np.frombuffer(bytes(range(18)), np.uint8).reshape(2, 1, 3, 3)
    for text in ("", "crop_size: 2", "mean_value: 3"):
        transformer(text)(images, generator())
    assert not recwarn.list


def test_crop_in_test_is_central_rounded_down() -> None:
    result = transformer("crop_size: 4")(numbered(2, 1, 7, 10), generator())
    np.testing.assert_array_equal(result[1, 0].numpy(), numbered(1, 1, 7, 10)[0, 0, 1:5, 3:7])


def test_crop_in_train_reaches_every_place_equally_and_per_sample() -> None:
    count = 4000
    result = transformer("crop_size: 4", train=True)(numbered(count, 2, 6, 5), generator())
    corners = result[:, 0, 0, 0].numpy().astype(int)
    places, times = np.unique(corners, return_counts=True)
    assert places.tolist() == [0, 1, 16, 17, 32, 33]
    # Six places: each is hit count/6 = 667 times, with a standard deviation of 24.
    assert np.abs(times - count / 6).max() < 5 * 24
    whole = numbered(1, 2, 6, 5)[0]
    for sample, corner in zip(result.numpy()[:50], corners, strict=False):
        row, column = divmod(corner, 16)
        np.testing.assert_array_equal(sample, whole[:, row : row + 4, column : column + 4])


@pytest.mark.parametrize("train", [False, True])
def test_images_of_several_sizes_are_cropped_each_by_its_own_size(train: bool) -> None:
    images = [numbered(1, 2, *size)[0] for size in ((4, 9), (8, 4), (6, 6))]
    transform = transformer("crop_size: 4 mean_value: 3 scale: 0.5", train)
    seen = set()
    draws = generator()
    for _ in range(100):
        result = transform(images, draws).numpy() / 0.5 + 3
        for index, image in enumerate(images):
            row, column = divmod(int(result[index, 0, 0, 0]), 16)
            window = image[:, row : row + 4, column : column + 4]
            np.testing.assert_array_equal(result[index], window)
            seen.add((index, row, column))
    central = {(0, 0, 2), (1, 2, 0), (2, 1, 1)}
    assert seen >= central
    assert len(seen) == (6 + 5 + 9 if train else 3)


def test_images_of_several_sizes_without_crop_are_an_error() -> None:
    images = [numbered(1, 1, *size)[0] for size in ((4, 9), (8, 4))]
    with pytest.raises(DataError, match="must have one size, .*Received: 4 x 9 and 8 x 4"):
        transformer("scale: 2")(images, generator())


def test_mean_image_fits_one_size_only() -> None:
    images = [np.zeros((3, *size), np.uint8) for size in ((20, 24), (24, 24))]
    with pytest.raises(DataError, match="the mean does not have the shape of the images"):
        transformer('mean_file: "mean.binaryproto" crop_size: 4')(images, generator())


def test_mirror_is_random_per_sample_in_both_phases() -> None:
    images = numbered(1000, 2, 3, 4)
    plain = images[0].astype(np.float32)
    for train in (False, True):
        result = transformer("mirror: true", train)(images, generator(1)).numpy()
        mirrored = result[:, 0, 0, 0] == plain[0, 0, -1]
        assert 400 < mirrored.sum() < 600  # 500 with a standard deviation of 16
        for sample, flipped in zip(result, mirrored, strict=True):
            np.testing.assert_array_equal(sample, plain[:, :, ::-1] if flipped else plain)


def test_mean_file_lies_under_the_crop_before_the_mirror(tmp_path: Path) -> None:
    mean = np.arange(2 * 6 * 5, dtype=np.float32)
    write_mean(tmp_path / "m", num=1, channels=2, height=6, width=5, data=mean)
    images = np.broadcast_to(mean.reshape(2, 6, 5) + 3, (64, 2, 6, 5)).astype(np.uint8)
    text = 'mean_file: "m" crop_size: 4 mirror: true scale: 0.5'
    result = transformer(text, True, tmp_path)(images, generator())
    np.testing.assert_array_equal(result.numpy(), np.full((64, 2, 4, 4), 1.5))


@pytest.mark.parametrize(
    "fields",
    [
        {"num": 1, "channels": 2, "height": 1, "width": 3},
        {"shape": {"dim": [1, 2, 1, 3]}},
        {"shape": {"dim": [2, 1, 3]}},
    ],
)
@pytest.mark.parametrize("kind", ["data", "double_data"])
def test_mean_file_of_any_blob_form_is_read(
    tmp_path: Path, fields: dict[str, object], kind: str
) -> None:
    values = np.arange(6.0)
    write_mean(tmp_path / "m", **{kind: values}, **fields)
    images = np.full((2, 2, 1, 3), 10, np.uint8)
    result = transformer('mean_file: "m"', folder=tmp_path)(images, generator())
    np.testing.assert_array_equal(result[0].numpy().ravel(), 10 - values)


def test_same_generator_state_gives_the_same_draws() -> None:
    transform = transformer("crop_size: 3 mirror: true", train=True)
    images = numbered(20, 1, 8, 8)
    assert torch.equal(transform(images, generator(5)), transform(images, generator(5)))
    assert not torch.equal(transform(images, generator(5)), transform(images, generator(6)))


@pytest.mark.parametrize(
    ("text", "train", "expected"),
    [
        ("", True, True),
        ("scale: 2 mean_value: 1", True, True),
        ("crop_size: 3", False, True),
        ("crop_size: 3", True, False),
        ("mirror: true", True, False),
        ("mirror: true", False, False),
    ],
)
def test_deterministic_says_whether_the_generator_is_used(
    text: str, train: bool, expected: bool
) -> None:
    transform = transformer(text, train)
    assert transform.deterministic is expected
    draws = generator()
    before = draws.get_state()
    transform(numbered(4, 1, 5, 5), draws)
    assert torch.equal(draws.get_state(), before) is expected


def test_mean_file_and_mean_value_exclude_each_other() -> None:
    with pytest.raises(DataError, match="Cannot specify mean_file and mean_value at the same time"):
        transformer('mean_file: "mean.binaryproto" mean_value: 1')


def test_crop_larger_than_image_is_an_error() -> None:
    transform = transformer("crop_size: 6")
    for shape in ((1, 5, 9), (1, 9, 5)):
        with pytest.raises(DataError, match=r"crop_size: 6, an image of .* crop_size <= 5"):
            transform.output_shape(shape)
        with pytest.raises(DataError, match="crop_size"):
            transform(np.zeros((2, *shape), np.uint8), generator())


def test_mean_values_of_another_number_are_an_error() -> None:
    with pytest.raises(DataError, match=r"either 1 mean_value or as many as channels: 3.*d: 2"):
        transformer("mean_value: 1 mean_value: 2").output_shape((3, 4, 4))


@pytest.mark.parametrize("shape", [(3, 20, 23), (3, 19, 24), (1, 20, 24)])
def test_mean_of_another_shape_is_an_error(shape: tuple[int, int, int]) -> None:
    transform = transformer('mean_file: "mean.binaryproto"')
    with pytest.raises(DataError, match=r"mean.binaryproto: .*\(3, 20, 24\), images of"):
        transform.output_shape(shape)


def test_mean_file_missing_is_an_error() -> None:
    with pytest.raises(CaffeKDError, match="absent.binaryproto: no such file"):
        transformer('mean_file: "absent.binaryproto"')


@pytest.mark.parametrize("keep", [1, 8, 9, 100, 5770])
def test_mean_file_truncated_is_an_error(tmp_path: Path, keep: int) -> None:
    (tmp_path / "m").write_bytes((GOLDEN / "mean.binaryproto").read_bytes()[:keep])
    with pytest.raises(DataError, match="m: the mean"):
        transformer('mean_file: "m"', folder=tmp_path)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"num": 2, "channels": 1, "height": 1, "width": 1, "data": [1, 2]},
        {"num": 1, "channels": 1, "height": 1, "width": 3, "data": [1, 2]},
        {"num": 1, "channels": 1, "height": -1, "width": -2, "data": [1, 2]},
        {"shape": {"dim": [2]}, "data": [1, 2]},
        {"shape": {"dim": [1, 2**40, 2**40]}, "data": [1, 2]},
    ],
)
def test_mean_file_that_is_no_image_is_an_error(tmp_path: Path, fields: dict[str, object]) -> None:
    write_mean(tmp_path / "m", **fields)
    with pytest.raises(DataError, match="m: the mean"):
        transformer('mean_file: "m"', folder=tmp_path)


def test_plain_scale_costs_about_one_multiply() -> None:
    images = np.zeros((256, 1, 28, 28), np.uint8)
    transform, draws, pixels = transformer("scale: 0.5"), generator(), torch.from_numpy(images)

    def fastest(action: object) -> float:
        times = []
        for _ in range(30):
            start = time.thread_time()  # not the time that other processes take
            action()  # type: ignore[operator]
            times.append(time.thread_time() - start)
        return min(times)

    multiply = fastest(lambda: pixels * 0.5)
    # Three multiplies leave room for the fixed cost of a call; a loop over samples takes 20.
    assert fastest(lambda: transform(images, draws)) < 3 * multiply + 100e-6


def test_jitter_shifts_each_sample_to_every_place_and_fills_with_the_means_colour() -> None:
    images = np.full((2000, 2, 5, 6), 7, np.uint8)
    images[:, 1, 2, 3] = 9  # the pixel whose new position gives the shift
    transform = transformer("jitter: 2 mean_value: 5 scale: 0.5", train=True)
    result = transform(images, generator()).numpy() / 0.5 + 5
    spots, rows, columns = np.nonzero(result[:, 1] == 9)
    assert spots.tolist() == list(range(2000))
    shifts, times = np.unique(np.stack([rows - 2, columns - 3]), axis=1, return_counts=True)
    assert shifts.T.tolist() == [[y, x] for y in range(-2, 3) for x in range(-2, 3)]
    # 25 shifts: each comes 2000/25 = 80 times, with a standard deviation of 8.8.
    assert np.abs(times - 80).max() < 5 * 8.8
    for sample, row, column in zip(result[:100], rows - 2, columns - 3, strict=False):
        covered = np.zeros((5, 6), bool)
        covered[max(row, 0) : 5 + min(row, 0), max(column, 0) : 6 + min(column, 0)] = True
        np.testing.assert_array_equal(sample[0], np.where(covered, 7, 5))  # 5, the mean, is 0


def test_jitter_follows_the_generator_and_is_none_in_test() -> None:
    images = numbered(20, 1, 6, 6)
    jitter = transformer("jitter: 3", train=True)
    first, again = (jitter(images, generator(4)) for _ in range(2))
    assert torch.equal(first, again)
    assert not jitter.deterministic
    assert not jitter.only_scales
    calm = transformer("jitter: 3")
    np.testing.assert_array_equal(calm(images, generator()).numpy(), images)
    assert calm.deterministic


def test_jitter_comes_after_crop_and_mirror() -> None:
    transform = transformer("jitter: 1 crop_size: 3 mirror: true", train=True)
    images = np.full((50, 1, 6, 8), 4, np.uint8)
    result = transform(images, generator())
    assert result.shape == (50, 1, 3, 3)
    assert {float(value) for value in result.unique()} == {0, 4}
    assert (result[:, :, 1, 1] == 4).all()  # a shift by 1 leaves the middle covered


def test_jitter_of_the_whole_image_is_refused() -> None:
    with pytest.raises(DataError, match="jitter: 5, an image of 5 x 8"):
        transformer("jitter: 5", train=True).output_shape((1, 5, 8))
    with pytest.raises(DataError, match="jitter: 4, an image of 4 x 4"):
        transformer("jitter: 4 crop_size: 4", train=True).output_shape((1, 9, 9))
    assert transformer("jitter: 5").output_shape((1, 5, 8)) == (1, 5, 8)  # TEST shifts nothing

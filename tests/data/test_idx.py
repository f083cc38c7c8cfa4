from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from caffe_kd.core.errors import CaffeKDError, DataError
from caffe_kd.data.backends import open_source
from caffe_kd.data.backends.idx import IMAGES, LABELS, read_idx, write_idx
from caffe_kd.proto import caffe_pb2

PIXELS = np.random.default_rng(3).integers(0, 256, (6, 4, 5), np.uint8)
DIGITS = np.array([3, 1, 4, 1, 5, 9], np.uint8)
IMAGES_NAME, LABELS_NAME = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_idx(tmp_path / IMAGES_NAME, PIXELS)
    write_idx(tmp_path / LABELS_NAME, DIGITS)
    return tmp_path


def opened(path: Path, found_in: Path = Path()) -> tuple[np.ndarray, np.ndarray]:
    param = caffe_pb2.DataParameter(source=str(path), backend=caffe_pb2.DataParameter.IDX)
    return open_source(param, lambda p: found_in / p).batch(slice(None))


def compress(path: Path, name: str | None = None) -> Path:
    packed = path.with_name(name or path.name + ".gz")
    content = gzip.compress(path.read_bytes())
    path.unlink()
    packed.write_bytes(content)
    return packed


def test_open_idx_gives_images_with_a_channel_and_their_labels(folder: Path) -> None:
    images, labels = opened(folder / IMAGES_NAME)
    np.testing.assert_array_equal(images, PIXELS[:, None])
    np.testing.assert_array_equal(labels, DIGITS)
    assert (images.dtype, labels.dtype) == (np.uint8, np.int64)


@pytest.mark.parametrize("packed", [(IMAGES_NAME,), (LABELS_NAME,), (IMAGES_NAME, LABELS_NAME)])
@pytest.mark.parametrize("asked", [IMAGES_NAME, IMAGES_NAME + ".gz"])
def test_open_idx_takes_whichever_of_plain_and_gz_exists(
    folder: Path, packed: tuple[str, ...], asked: str
) -> None:
    for name in packed:
        compress(folder / name)
    images, labels = opened(Path(asked), found_in=folder)
    np.testing.assert_array_equal(images, PIXELS[:, None])
    np.testing.assert_array_equal(labels, DIGITS)


def test_open_idx_detects_gzip_by_content_not_name(folder: Path) -> None:
    compress(folder / IMAGES_NAME, IMAGES_NAME)
    (folder / LABELS_NAME).rename(folder / (LABELS_NAME + ".gz"))
    images, labels = opened(folder / IMAGES_NAME)
    np.testing.assert_array_equal(images, PIXELS[:, None])
    np.testing.assert_array_equal(labels, DIGITS)


def test_open_idx_missing_files_are_named(folder: Path) -> None:
    with pytest.raises(DataError, match=r"other-images-idx3-ubyte: no such file.*get_mnist"):
        opened(folder / "other-images-idx3-ubyte")
    (folder / LABELS_NAME).unlink()
    with pytest.raises(DataError, match=f"{LABELS_NAME}: no such file"):
        opened(folder / IMAGES_NAME)


def test_open_idx_name_without_images_says_what_is_expected(folder: Path) -> None:
    (folder / IMAGES_NAME).rename(folder / "pixels")
    with pytest.raises(DataError, match="Received: 'pixels'. Expected: a name with 'images-idx3'"):
        opened(folder / "pixels")


def test_open_idx_counts_that_differ_are_reported(folder: Path) -> None:
    write_idx(folder / LABELS_NAME, DIGITS[:5])
    with pytest.raises(DataError, match="6 images, 5 labels"):
        opened(folder / IMAGES_NAME)


@pytest.mark.parametrize("keep", [0, 3, 4, 9, 15])
def test_read_idx_truncated_header_is_an_error(folder: Path, keep: int) -> None:
    path = folder / IMAGES_NAME
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=f"{IMAGES_NAME}: .*Received: {keep} bytes.*16 bytes"):
        read_idx(path, IMAGES)


@pytest.mark.parametrize("keep", [16, 17, 135])
def test_read_idx_truncated_values_are_an_error(folder: Path, keep: int) -> None:
    path = folder / IMAGES_NAME
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=f"truncated.*{keep - 16} bytes.*6 x 4 x 5 = 120"):
        read_idx(path, IMAGES)


def test_read_idx_gz_truncated_anywhere_is_an_error(folder: Path) -> None:
    path = compress(folder / IMAGES_NAME)
    whole = path.read_bytes()
    for keep in range(len(whole)):
        path.write_bytes(whole[:keep])
        with pytest.raises(DataError, match=r"\.gz: .*truncated"):
            read_idx(path, IMAGES)


def test_read_idx_gz_of_truncated_idx_is_an_error(folder: Path) -> None:
    path = folder / IMAGES_NAME
    path.write_bytes(gzip.compress(path.read_bytes()[:100]))
    with pytest.raises(DataError, match="truncated. Received: 84 bytes.*120"):
        read_idx(path, IMAGES)


def test_read_idx_gz_damaged_is_an_error(folder: Path) -> None:
    path = compress(folder / IMAGES_NAME)
    damaged = bytearray(path.read_bytes())
    damaged[-6] ^= 0xFF  # in the checksum
    path.write_bytes(damaged)
    with pytest.raises(DataError, match="truncated or damaged"):
        read_idx(path, IMAGES)


@pytest.mark.parametrize("packed", [False, True])
def test_read_idx_longer_than_its_header_is_an_error(folder: Path, packed: bool) -> None:
    path = folder / IMAGES_NAME
    longer = path.read_bytes() + b"more"
    path.write_bytes(gzip.compress(longer) if packed else longer)
    with pytest.raises(DataError, match="longer than its header says"):
        read_idx(path, IMAGES)


def test_read_idx_wrong_magic_names_both(folder: Path) -> None:
    with pytest.raises(
        DataError, match="Received: 0x00000801, an IDX labels file. Expected: 0x00000803"
    ):
        read_idx(folder / LABELS_NAME, IMAGES)
    with pytest.raises(DataError, match="Expected: 0x00000801"):
        read_idx(folder / IMAGES_NAME, LABELS)
    (folder / "text").write_text("name: 'LeNet' layer {}")
    with pytest.raises(DataError, match="wrong magic number. Received: 0x6e616d65. Expected"):
        read_idx(folder / "text", IMAGES)


@pytest.mark.parametrize("packed", [False, True])
def test_read_idx_absurd_sizes_are_refused_before_memory_is_taken(
    tmp_path: Path, packed: bool
) -> None:
    content = struct.pack(">4I", IMAGES, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF) + bytes(50)
    path = tmp_path / IMAGES_NAME
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(DataError, match="4294967295 x 4294967295 x 4294967295"):
        read_idx(path, IMAGES)


@pytest.mark.parametrize("shape", [(0, 28, 28), (3, 0, 28)])
def test_read_idx_without_values_is_an_error(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = tmp_path / IMAGES_NAME
    path.write_bytes(struct.pack(">4I", IMAGES, *shape))
    with pytest.raises(DataError, match="holds no images"):
        read_idx(path, IMAGES)


def test_read_idx_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path, IMAGES)


def test_write_idx_has_caffe_header(folder: Path) -> None:
    assert (folder / LABELS_NAME).read_bytes() == bytes.fromhex("0000080100000006") + bytes(DIGITS)
    assert (folder / IMAGES_NAME).read_bytes()[:16] == struct.pack(">4I", 2051, 6, 4, 5)


def test_write_idx_leaves_no_other_file_and_keeps_the_old_on_failure(folder: Path) -> None:
    before = (folder / LABELS_NAME).read_bytes()
    with pytest.raises(DataError, match="uint8"):
        write_idx(folder / LABELS_NAME, DIGITS.astype(np.float32))
    assert (folder / LABELS_NAME).read_bytes() == before
    assert sorted(p.name for p in folder.iterdir()) == [IMAGES_NAME, LABELS_NAME]
    with pytest.raises(CaffeKDError, match="cannot be written"):
        write_idx(folder / LABELS_NAME / "inside_a_file", DIGITS)


def test_pipe_and_folder_are_refused_and_not_waited_for(tmp_path: Path) -> None:
    paths = [tmp_path]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        paths.append(tmp_path / "pipe")
    for path in paths:
        with pytest.raises(DataError, match="it is not a regular file"):
            read_idx(path, IMAGES)

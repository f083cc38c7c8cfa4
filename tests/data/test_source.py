from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffe_kd.core.errors import DataError
from caffe_kd.data.backends import open_source
from caffe_kd.data.backends.leveldb import LevelDbSamples
from caffe_kd.data.backends.lmdb import LmdbSamples, write_lmdb
from caffe_kd.data.source import MemorySamples, SampleSource, into_memory
from caffe_kd.proto import caffe_pb2

GOLDEN = Path(__file__).parents[1] / "golden" / "data"
LMDB = caffe_pb2.DataParameter.LMDB


def lookup(path: str) -> Path:
    return GOLDEN / path


def lmdb_of(path: Path, *datums: caffe_pb2.Datum) -> LmdbSamples:
    write_lmdb(path, ((b"%d" % i, d.SerializeToString()) for i, d in enumerate(datums)))
    return LmdbSamples(path)


def test_open_source_lmdb_finds_relative_folder() -> None:
    source = open_source(caffe_pb2.DataParameter(source="gray_lmdb", backend=LMDB), lookup)
    assert len(source) == 10
    assert source.name == str(GOLDEN / "gray_lmdb")


def test_open_source_without_backend_names_the_line_to_write() -> None:
    with pytest.raises(DataError, match=r"raw_lmdb: .*no backend.*write backend: LMDB$"):
        open_source(caffe_pb2.DataParameter(source="raw_lmdb"), lookup)
    with pytest.raises(DataError, match="write backend: IDX$"):
        open_source(caffe_pb2.DataParameter(source="train-images-idx3-ubyte"), lookup)
    with pytest.raises(DataError, match="no backend.*LEVELDB.*Write backend: IDX or"):
        open_source(caffe_pb2.DataParameter(source="elsewhere"), lookup)


def test_open_source_leveldb_is_the_default_backend() -> None:
    named = caffe_pb2.DataParameter(source="raw_leveldb", backend=caffe_pb2.DataParameter.LEVELDB)
    for param in (named, caffe_pb2.DataParameter(source="raw_leveldb")):
        source = open_source(param, lookup)
        assert isinstance(source, LevelDbSamples)
        assert len(source) == 10


def test_open_source_without_source_says_so() -> None:
    with pytest.raises(DataError, match="needs a source"):
        open_source(caffe_pb2.DataParameter(backend=LMDB), lookup)


def test_into_memory_raw_samples_are_the_same() -> None:
    source = LmdbSamples(GOLDEN / "raw_lmdb")
    memory = into_memory(source)
    assert isinstance(memory, MemorySamples)
    assert memory.name == source.name
    for index in range(len(source)):
        image, label = source.read(index)
        kept, kept_label = memory.read(index)
        assert kept.dtype == np.uint8
        np.testing.assert_array_equal(kept, image)
        assert kept_label == label


def test_into_memory_float_samples_stay_float(tmp_path: Path) -> None:
    datum = caffe_pb2.Datum(channels=1, height=1, width=2, float_data=[-0.5, 300.25], label=4)
    memory = into_memory(lmdb_of(tmp_path / "db", datum, datum))
    images, labels = memory.batch(np.array([1]))
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images, [[[[-0.5, 300.25]]]])
    np.testing.assert_array_equal(labels, [4])


def test_into_memory_leaves_source_where_it_does_not_fit() -> None:
    source = LmdbSamples(GOLDEN / "raw_lmdb")
    exact = 10 * 3 * 20 * 24
    assert into_memory(source, limit_bytes=exact - 1) is source
    assert into_memory(source, limit_bytes=exact) is not source


def test_into_memory_leaves_raw_samples_of_several_sizes(tmp_path: Path) -> None:
    unequal = lmdb_of(
        tmp_path / "db",
        caffe_pb2.Datum(channels=1, height=1, width=1, data=b"1"),
        caffe_pb2.Datum(channels=1, height=1, width=2, data=b"12"),
    )
    assert into_memory(unequal) is unequal
    images, labels = unequal.batch(slice(0, 2))
    assert [image.shape for image in images] == [(1, 1, 1), (1, 1, 2)]
    assert labels.tolist() == [0, 0]


def test_batch_of_several_kinds_is_an_error(tmp_path: Path) -> None:
    kinds = [
        caffe_pb2.Datum(channels=1, height=1, width=2, data=b"12"),
        caffe_pb2.Datum(channels=2, height=1, width=1, data=b"12"),
        caffe_pb2.Datum(channels=1, height=1, width=2, float_data=[1, 2]),
    ]
    samples = lmdb_of(tmp_path / "db", *kinds)
    with pytest.raises(DataError, match=r"number of channels.*\(2, 1, 1\) for sample 1"):
        samples.batch(slice(0, 2))
    with pytest.raises(DataError, match=r"one type.*float32 \(1, 1, 2\) for sample 2"):
        samples.batch(np.array([0, 2]))


class Counting(SampleSource):
    """Three encoded samples of 12 bytes that count how often they are read."""

    name = "counting"
    encoded = True

    def __init__(self) -> None:
        self.reads = [0, 0, 0]

    def __len__(self) -> int:
        return 3

    def read(self, index: int) -> tuple[np.ndarray, int]:
        self.reads[index] += 1
        return np.full((3, 2, 2), index, np.uint8), index


@pytest.mark.parametrize(
    ("limit", "reads"), [(36, [1, 1, 1]), (35, [1, 1, 4]), (12, [1, 4, 4]), (11, [4, 4, 4])]
)
def test_into_memory_keeps_decoded_samples_while_there_is_room(
    limit: int, reads: list[int]
) -> None:
    counting = Counting()
    memory = into_memory(counting, limit_bytes=limit)
    assert memory.name == "counting" and len(memory) == 3
    for _ in range(4):
        images, labels = memory.batch(slice(0, 3))
        np.testing.assert_array_equal(images, np.stack([np.full((3, 2, 2), i) for i in range(3)]))
        assert labels.tolist() == [0, 1, 2]
    assert counting.reads == reads


def test_batch_takes_slices_and_positions() -> None:
    source = LmdbSamples(GOLDEN / "raw_lmdb")
    memory = into_memory(source)
    for indices in (slice(8, 12), np.array([9, 0, 0])):
        for got, want in zip(memory.batch(indices), source.batch(indices), strict=True):
            assert got.dtype == want.dtype
            np.testing.assert_array_equal(got, want)
    assert memory.batch(slice(8, 12))[1].dtype == np.int64


def test_memory_samples_of_other_shape_are_refused() -> None:
    with pytest.raises(DataError, match=r"Received: \(3, 2, 2\)"):
        MemorySamples(np.zeros((3, 2, 2), np.uint8), np.zeros(3, np.int64), "made")
    with pytest.raises(DataError, match="at least one sample"):
        MemorySamples(np.zeros((0, 1, 2, 2), np.uint8), np.zeros(0, np.int64), "made")

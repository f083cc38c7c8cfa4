from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from caffe_kd.core.errors import DataError
from caffe_kd.data import datum
from caffe_kd.data.backends import open_source
from caffe_kd.data.backends.idx import write_idx
from caffe_kd.data.backends.lmdb import write_lmdb
from caffe_kd.data.source import MemorySamples, SampleSource, into_memory
from caffe_kd.data.subset import Subset
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text

GOLDEN = Path(__file__).parents[1] / "golden" / "data"
LABELS = [3, 1, 3, 0, 2, 3, 1, 0]


@pytest.fixture(params=["IDX", "LMDB", "encoded"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Eight samples whose pixels are their numbers, as a ``data_param``'s source and backend."""
    if request.param == "IDX":
        path = tmp_path / "images-idx3-ubyte"
        images = np.arange(8, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 3), np.uint8)
        write_idx(path, images)
        write_idx(tmp_path / "labels-idx1-ubyte", np.array(LABELS, np.uint8))
        return f'source: "{path.as_posix()}" backend: IDX'
    path = tmp_path / "db"
    encoded = request.param == "encoded"
    write_lmdb(path, ((b"%d" % i, _sample(i, encoded)) for i in range(8)))
    return f'source: "{path.as_posix()}" backend: LMDB'


def _sample(index: int, encoded: bool) -> bytes:
    fields = {"channels": 1, "height": 2, "width": 3, "data": bytes([index]) * 6}
    if encoded:
        file = io.BytesIO()
        Image.new("L", (3, 2), index).save(file, "PNG")
        fields = {"encoded": True, "data": file.getvalue()}
    message: bytes = pb.Datum(label=LABELS[index], **fields).SerializeToString()
    return message


def opened(database: str, settings: str = "") -> SampleSource:
    return open_source(text.parse(f"{database} {settings}", pb.DataParameter()), Path)


@pytest.mark.parametrize(
    ("settings", "numbers"),
    [
        ("", range(8)),
        ("first: 5", [5, 6, 7]),
        ("count: 3", [0, 1, 2]),
        ("first: 2 count: 4", [2, 3, 4, 5]),
        ("leave_out: 3", [1, 3, 4, 6, 7]),
        ("first: 1 count: 6 leave_out: 3 leave_out: 0", [1, 4, 6]),
        ("leave_out: 9", range(8)),
    ],
)
@pytest.mark.parametrize("keep", [False, True])
def test_subset_has_these_samples_with_their_labels(
    database: str, settings: str, numbers: list[int], keep: bool
) -> None:
    samples = opened(database, settings)
    if keep:
        samples = into_memory(samples)
    assert len(samples) == len(numbers)
    images, labels = samples.batch(slice(0, None))
    assert np.asarray(images).shape == (len(numbers), 1, 2, 3)
    assert np.asarray(images)[:, 0, 1, 2].tolist() == list(numbers)
    assert labels.tolist() == [LABELS[n] for n in numbers]
    assert [samples.label(i) for i in range(len(samples))] == labels.tolist()


def test_subset_takes_no_other_samples_into_memory(database: str) -> None:
    samples = into_memory(opened(database, "first: 2 count: 4"))
    if isinstance(samples, MemorySamples):
        assert samples.images.base is None or samples.images.base.size <= 4 * 6


def test_leave_out_decodes_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lmdb(tmp_path / "db", ((b"%d" % i, _sample(i, encoded=True)) for i in range(8)))

    def decode(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(datum, "_decode_image", decode)
    samples = opened(f'source: "{(tmp_path / "db").as_posix()}" backend: LMDB', "leave_out: 1")
    assert len(samples) == 6


def test_leveldb_samples_have_subsets_too() -> None:
    database = f'source: "{(GOLDEN / "raw_leveldb").as_posix()}" backend: LEVELDB'
    samples = opened(database, "first: 7")
    assert isinstance(samples, Subset)
    for index, number in enumerate((7, 8, 9)):
        image, label = samples.read(index)
        expected, expected_label = opened(database).read(number)
        np.testing.assert_array_equal(image, expected)
        assert label == expected_label


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("first: 8", "Received: first: 8, and 8 samples"),
        ("first: 4000000000", "Received: first: 4000000000, and 8 samples"),
        ("count: 9", "Received: first: 0, count: 9, and 8 samples"),
        ("first: 5 count: 4", "first: 5, count: 4, and 8 samples.*first \\+ count <= 8"),
        ("count: 0", "Received: first: 0, count: 0"),
        ("first: 1 count: 2 leave_out: 3 leave_out: 1", "leave_out: 3, 1, and labels 1, 3"),
    ],
)
def test_subset_beyond_the_samples_or_of_none_is_an_error(
    database: str, settings: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        opened(database, settings)

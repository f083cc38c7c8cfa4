from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import lmdb
import numpy as np
import pytest

from caffe_kd.core.errors import DataError
from caffe_kd.data.backends.lmdb import LmdbSamples, write_lmdb
from caffe_kd.proto import caffe_pb2

GOLDEN = Path(__file__).parents[1] / "golden" / "data"


def datum(value: int, size: int = 1) -> bytes:
    pixels = bytes([value % 256]) * size
    return caffe_pb2.Datum(
        channels=1, height=1, width=size, data=pixels, label=value
    ).SerializeToString()


def read_all(path: Path) -> int:
    samples = LmdbSamples(path)
    return sum(int(samples.read(index)[0].size) for index in range(len(samples)))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(GOLDEN / "raw_lmdb", tmp_path / "db")
    return tmp_path / "db"


@pytest.mark.parametrize("name", ["raw_lmdb", "png_lmdb", "gray_lmdb"])
def test_samples_are_those_the_lmdb_library_finds(name: str) -> None:
    samples = LmdbSamples(GOLDEN / name)
    with lmdb.open(str(GOLDEN / name), readonly=True, lock=False) as database:
        with database.begin() as transaction:
            expected = list(transaction.cursor())
    assert [samples.key(index) for index in range(len(samples))] == [key for key, _ in expected]
    for index, (_, value) in enumerate(expected):
        message = caffe_pb2.Datum.FromString(value)
        image, label = samples.read(index)
        assert label == message.label
        if not message.encoded:
            assert image.tobytes() == message.data


@pytest.mark.parametrize("sizes", [[1], [3000, 1, 9000, 2030], [10] * 5000, [3000] * 1500])
def test_write_then_read_gives_the_same_in_key_order(tmp_path: Path, sizes: list[int]) -> None:
    pairs = [(b"%08d" % index, datum(index, size)) for index, size in enumerate(sizes)]
    shuffled = random.Random(1).sample(pairs, len(pairs))
    assert write_lmdb(tmp_path / "db", shuffled) == len(pairs)
    samples = LmdbSamples(tmp_path / "db")
    assert len(samples) == len(pairs)
    for index, size in enumerate(sizes):
        image, label = samples.read(index)
        assert samples.key(index) == b"%08d" % index
        assert label == index
        np.testing.assert_array_equal(image, np.full((1, 1, size), index % 256, np.uint8))


def test_samples_changed_by_later_transactions_are_read_as_last_committed(tmp_path: Path) -> None:
    path = tmp_path / "db"
    write_lmdb(path, [(b"%04d" % index, datum(index, 3000)) for index in range(50)])
    for _ in range(3):  # each commit writes the other of the two headers
        with lmdb.open(str(path), map_size=1 << 24) as database, database.begin(write=True) as txn:
            txn.delete(b"0007")
            txn.put(b"0003", datum(int(txn.get(b"0003")[-1]) + 1))
            txn.put(b"9%03d" % txn.stat()["entries"], datum(200, 5000))
    with lmdb.open(str(path), readonly=True, lock=False) as database, database.begin() as txn:
        expected = list(txn.cursor())
    samples = LmdbSamples(path)
    assert [samples.key(index) for index in range(len(samples))] == [key for key, _ in expected]
    assert [samples.read(i)[1] for i in range(len(samples))] == [
        caffe_pb2.Datum.FromString(value).label for _, value in expected
    ]


def test_open_by_file_and_twice_at_once() -> None:
    one = LmdbSamples(GOLDEN / "raw_lmdb" / "data.mdb")
    two = LmdbSamples(GOLDEN / "raw_lmdb")
    np.testing.assert_array_equal(one.read(3)[0], two.read(3)[0])


def test_open_leaves_the_folder_as_it_is(copy: Path) -> None:
    read_all(copy)
    assert [path.name for path in copy.iterdir()] == ["data.mdb"]


def test_missing_database_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no LMDB at .*mnist; make it with caffe_kd convert_mnist"):
        LmdbSamples(tmp_path / "mnist")
    with pytest.raises(DataError, match=r"no LMDB at .*none; caffe_kd convert_imageset ROOT LIST"):
        LmdbSamples(tmp_path / "none")
    with pytest.raises(DataError, match="no LMDB at"):
        LmdbSamples(tmp_path)
    with pytest.raises(DataError, match="this is a LevelDB"):
        LmdbSamples(GOLDEN / "raw_leveldb")


def test_another_file_is_not_an_lmdb(copy: Path) -> None:
    (copy / "data.mdb").write_bytes(b"layer { }" * 1000)
    with pytest.raises(DataError, match=r"not an LMDB database.*Expected: 0xbeefc0de"):
        LmdbSamples(copy)


@pytest.mark.parametrize("keep", [*range(0, 49152, 1024), 100, 4112, 8191, 49151])
def test_truncated_anywhere_is_an_error(copy: Path, keep: int) -> None:
    whole = (copy / "data.mdb").read_bytes()
    (copy / "data.mdb").write_bytes(whole[:keep])
    with pytest.raises(DataError, match=r"db: the LMDB is truncated"):
        read_all(copy)


@pytest.mark.parametrize("name", ["raw_lmdb", "png_lmdb", "gray_lmdb"])
def test_damaged_anywhere_ends_in_an_error_or_other_pixels(tmp_path: Path, name: str) -> None:
    whole = (GOLDEN / name / "data.mdb").read_bytes()
    generator = random.Random(4)
    errors = 0
    for _ in range(300):
        damaged = bytearray(whole)
        page = generator.randrange(len(whole) // 4096)
        for _ in range(3):
            damaged[page * 4096 + generator.randrange(160)] = generator.randrange(256)
        (tmp_path / "data.mdb").write_bytes(damaged)
        try:
            read_all(tmp_path)
        except DataError:
            errors += 1
    assert errors > 50


def test_page_that_leads_to_itself_is_an_error(copy: Path) -> None:
    content = bytearray((copy / "data.mdb").read_bytes())
    root = int.from_bytes(content[4096 + 16 + 112 : 4096 + 16 + 120], "little")
    first_node = int.from_bytes(content[root * 4096 + 16 : root * 4096 + 18], "little")
    node = root * 4096 + first_node
    content[node : node + 6] = root.to_bytes(6, "little")
    (copy / "data.mdb").write_bytes(content)
    with pytest.raises(DataError, match=f"page {root} is reached twice"):
        LmdbSamples(copy)


def patched(path: Path, at: int, new: bytes) -> Path:
    content = bytearray((path / "data.mdb").read_bytes())
    content[at : at + len(new)] = new
    (path / "data.mdb").write_bytes(content)
    return path


def test_header_that_counts_other_samples_is_an_error(copy: Path) -> None:
    with pytest.raises(DataError, match="10 samples found, 11 stated"):
        LmdbSamples(patched(copy, 4096 + 16 + 104, b"\x0b"))


def test_page_with_another_number_is_an_error(copy: Path) -> None:
    with pytest.raises(DataError, match="page 5 has the number 6"):
        LmdbSamples(patched(copy, 5 * 4096, b"\x06"))


def test_sample_that_reaches_beyond_its_page_is_an_error(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "db", [(b"a", datum(1)), (b"b", datum(2))])
    leaf = 2 * 4096
    content = (tmp_path / "db" / "data.mdb").read_bytes()
    node = leaf + int.from_bytes(content[leaf + 16 : leaf + 18], "little")
    with pytest.raises(DataError, match="a sample of page 2 extends beyond it"):
        LmdbSamples(patched(tmp_path / "db", node, b"\xff\xff"))


def test_large_value_that_is_cut_off_is_an_error(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "db", [(b"a", datum(1, 9000))])
    path = tmp_path / "db" / "data.mdb"
    whole = path.read_bytes()
    overflow = next(at for at in range(8192, len(whole), 4096) if whole[at + 10] == 4)
    path.write_bytes(whole[: overflow + 8192])
    with pytest.raises(DataError, match="is cut off|is outside"):
        LmdbSamples(tmp_path / "db")
    path.write_bytes(whole)
    with pytest.raises(DataError, match="is cut off"):
        LmdbSamples(patched(tmp_path / "db", overflow + 12, b"\x02"))


def test_empty_database_is_an_error(tmp_path: Path) -> None:
    lmdb.open(str(tmp_path / "db")).close()
    with pytest.raises(DataError, match="holds no samples"):
        LmdbSamples(tmp_path / "db")


def test_several_values_for_a_key_are_an_error(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path / "db"), max_dbs=1) as database:
        with database.begin(write=True, db=database.open_db(b"named")) as transaction:
            transaction.put(b"a", b"b")
    with pytest.raises(DataError, match="named databases"):
        LmdbSamples(tmp_path / "db")


def test_sample_of_wrong_length_is_named_by_its_key(tmp_path: Path) -> None:
    bad = caffe_pb2.Datum(channels=3, height=2, width=2, data=b"short").SerializeToString()
    write_lmdb(tmp_path / "db", [(b"good", datum(1)), (b"later", bad), (b"other", b"\xff")])
    samples = LmdbSamples(tmp_path / "db")
    assert samples.read(0)[1] == 1
    with pytest.raises(DataError, match="key 'later': Incorrect data field size 5.*3 x 2 x 2"):
        samples.read(1)
    with pytest.raises(DataError, match="key 'other': the sample is not a Datum"):
        samples.read(2)


def test_write_grows_beyond_its_first_map(tmp_path: Path) -> None:
    big = 24 << 20
    assert write_lmdb(tmp_path / "db", [(b"a", datum(1, big)), (b"b", datum(2, big))]) == 2
    assert read_all(tmp_path / "db") == 2 * big


def test_write_does_not_overwrite_by_default(tmp_path: Path) -> None:
    path = tmp_path / "db"
    write_lmdb(path, [(b"a", datum(1))])
    with pytest.raises(DataError, match="exists already"):
        write_lmdb(path, [(b"a", datum(2))])
    assert LmdbSamples(path).read(0)[1] == 1
    write_lmdb(path, [(b"a", datum(2))], overwrite=True)
    assert LmdbSamples(path).read(0)[1] == 2


def test_write_never_replaces_a_folder_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="more than an LMDB"):
        write_lmdb(tmp_path / "db", [(b"a", datum(2))], overwrite=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["db", "thesis.tex"]


@pytest.mark.parametrize("old", [False, True])
def test_write_that_fails_leaves_what_was_there(tmp_path: Path, old: bool) -> None:
    def broken() -> Iterator[tuple[bytes, bytes]]:
        yield b"a", datum(2)
        raise KeyboardInterrupt

    if old:
        write_lmdb(tmp_path / "db", [(b"a", datum(1))])
    with pytest.raises(KeyboardInterrupt):
        write_lmdb(tmp_path / "db", broken(), overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == (["db"] if old else [])
    if old:
        assert LmdbSamples(tmp_path / "db").read(0)[1] == 1


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([(b"a", b"1"), (b"a", b"2")], "occurs twice"),
        ([(b"", b"1")], "cannot be written"),
        ([(b"k" * 600, b"1")], "cannot be written"),
        ([], "no samples"),
    ],
)
def test_write_of_impossible_samples_is_an_error(
    tmp_path: Path, samples: list[tuple[bytes, bytes]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        write_lmdb(tmp_path / "db", samples)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="there are no locks on files here")
@pytest.mark.parametrize("old", [False, True])
def test_killed_conversion_does_not_stand_in_the_way_of_the_next(tmp_path: Path, old: bool) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    if old:  # written elsewhere, since a process looks through a folder once
        write_lmdb(tmp_path / "db", [(b"a", datum(1))])
        (tmp_path / "db").rename(folder / "db")
    code = (
        "import os, signal\nfrom pathlib import Path\n"
        "from caffe_kd.data.backends.lmdb import LmdbWriter\n"
        "with LmdbWriter(Path('db'), overwrite=True) as database:\n"
        "    database.put(b'a', b'b')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment)
    assert len(list(folder.iterdir())) == 1 + old  # else it was not killed in the middle
    write_lmdb(folder / "db", [(b"a", datum(2))], overwrite=True)
    assert [path.name for path in folder.iterdir()] == ["db"]
    assert LmdbSamples(folder / "db").read(0)[1] == 2


@pytest.mark.parametrize("size", [10, 5000])  # in a page of the tree, and on pages of its own
def test_database_that_is_cut_short_while_in_use_is_an_error(tmp_path: Path, size: int) -> None:
    """In a process of its own: reading by a map would end that with a bus error."""
    write_lmdb(tmp_path / "db", [(b"%04d" % i, datum(i, size)) for i in range(500)])
    code = (
        "import os, sys\nfrom pathlib import Path\n"
        "from caffe_kd.data.backends.lmdb import LmdbSamples\n"
        "from caffe_kd.core.errors import CaffeKDError\n"
        "samples = LmdbSamples(Path('db'))\nos.truncate('db/data.mdb', 8192)\n"
        "try:\n    for index in range(500):\n        samples.read(index)\n"
        "except CaffeKDError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done
    assert done.stdout.startswith("db/data.mdb: was truncated while in use")


def test_pointers_to_one_sample_are_refused(tmp_path: Path) -> None:
    """Else a small file could announce countless samples."""
    write_lmdb(tmp_path / "db", [(b"a", datum(1)), (b"b", datum(2))])
    file = tmp_path / "db" / "data.mdb"
    content = bytearray(file.read_bytes())
    pages = range(2 * 4096, len(content), 4096)
    (leaf,) = (
        at for at in pages if content[at + 10] & 2 and content[at + 12 : at + 14] == b"\x14\0"
    )
    content[leaf + 18 : leaf + 20] = content[leaf + 16 : leaf + 18]
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"nodes of page \d+ overlap"):
        LmdbSamples(tmp_path / "db")

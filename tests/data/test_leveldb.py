from __future__ import annotations

import shutil
import struct
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from caffe_kd.core.errors import CaffeKDError, DataError
from caffe_kd.data.backends.leveldb import LevelDbSamples
from caffe_kd.data.backends.lmdb import LmdbSamples
from caffe_kd.proto import caffe_pb2

GOLDEN = Path(__file__).parents[1] / "golden" / "data"
CHUNK = 32768  # of a log
PUT, DELETE = 1, 0


def varint(value: int) -> bytes:
    return bytes([value & 0x7F | 0x80]) + varint(value >> 7) if value > 0x7F else bytes([value])


def string(value: bytes) -> bytes:
    return varint(len(value)) + value


def checksum(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def stored(block: bytes, compression: bytes = b"\0") -> bytes:
    """Return a block as it lies in a table: with its compression and checksum."""
    return block + compression + checksum(block + compression)


def log_of(records: list[bytes]) -> bytes:
    """Write samples as LevelDB's logs hold them."""
    out = b""
    for record in records:
        kind_of_part = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}
        first = True
        while True:
            room = CHUNK - len(out) % CHUNK
            if room < 7:
                out += bytes(room)
                continue
            part, record = record[: room - 7], record[room - 7 :]
            kind = bytes([kind_of_part[first, not record]])
            out += checksum(kind + part) + struct.pack("<H", len(part)) + kind + part
            first = False
            if not record:
                break
    return out


def batch(sequence: int, *writes: tuple[bytes, bytes | None]) -> bytes:
    """Write a batch of puts (key, value) and deletions (key, None)."""
    out = struct.pack("<QI", sequence, len(writes))
    for key, value in writes:
        if value is None:
            out += bytes([DELETE]) + string(key)
        else:
            out += bytes([PUT]) + string(key) + string(value)
    return out


def table_of(*entries: tuple[bytes, int, int, bytes]) -> bytes:
    """Write a table of one block, not compressed, of (key, sequence, kind, value)."""

    def block(pairs: list[tuple[bytes, bytes]]) -> bytes:
        body, last = b"", b""
        for key, value in pairs:
            shared = 0
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
            own = key[shared:]
            body += varint(shared) + varint(len(own)) + varint(len(value)) + own + value
            last = key
        return body + struct.pack("<II", 0, 1)

    def inner(key: bytes, sequence: int, kind: int) -> bytes:
        return key + struct.pack("<Q", sequence << 8 | kind)

    data = block([(inner(key, seq, kind), value) for key, seq, kind, value in entries])
    index_at = len(data) + 5
    index = block([(inner(entries[-1][0], 0, PUT), varint(0) + varint(len(data)))])
    footer = (varint(0) + varint(0) + varint(index_at) + varint(len(index))).ljust(40, b"\0")
    magic = struct.pack("<Q", 0xDB4775248B80FB57)
    return stored(data) + stored(index) + footer + magic


def database(
    folder: Path,
    log: bytes = b"",
    tables: dict[int, bytes] | None = None,
    comparator: bytes = b"leveldb.BytewiseComparator",
) -> Path:
    folder.mkdir()
    edit = b"\x01" + string(comparator) + b"\x02\x03"  # its log is 000003
    for number, table in (tables or {}).items():
        edit += b"\x07\x00" + varint(number) + varint(len(table)) + string(b"") * 2
        (folder / f"{number:06d}.ldb").write_bytes(table)
    (folder / "MANIFEST-000002").write_bytes(log_of([edit]))
    (folder / "CURRENT").write_text("MANIFEST-000002\n")
    (folder / "000003.log").write_bytes(log)
    return folder


def datum(label: int, size: int = 1) -> bytes:
    made = caffe_pb2.Datum(channels=1, height=1, width=size, data=bytes(size), label=label)
    return bytes(made.SerializeToString())


def labels_of(records: LevelDbSamples) -> dict[str, int]:
    return {records.key(i).decode(): records.read(i)[1] for i in range(len(records))}


def test_recorded_database_equals_the_lmdb_of_the_same_images() -> None:
    ours, theirs = LevelDbSamples(GOLDEN / "raw_leveldb"), LmdbSamples(GOLDEN / "raw_lmdb")
    assert len(ours) == len(theirs) == 10
    assert not ours.encoded
    for index in range(10):
        assert ours.key(index) == theirs.key(index)
        image, label = ours.read(index)
        wanted, wanted_label = theirs.read(index)
        np.testing.assert_array_equal(image, wanted)
        assert label == wanted_label


def test_reading_changes_no_file_and_needs_no_permission_to_write(tmp_path: Path) -> None:
    folder = shutil.copytree(GOLDEN / "raw_leveldb", tmp_path / "db")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    folder.chmod(0o555)
    try:
        assert len(LevelDbSamples(folder)) == 10
    finally:
        folder.chmod(0o755)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_log_holds_records_in_any_order_and_larger_than_its_blocks(tmp_path: Path) -> None:
    log = log_of(
        [
            batch(1, (b"b", datum(1)), (b"c", datum(2, size=3 * CHUNK))),
            batch(3, (b"a", datum(3, size=CHUNK - 60)), (b"d", datum(4))),
        ]
    )
    records = LevelDbSamples(database(tmp_path / "db", log))
    assert labels_of(records) == {"a": 3, "b": 1, "c": 2, "d": 4}
    assert records.read(2)[0].shape == (1, 1, 3 * CHUNK)


def test_newest_write_counts_and_deleted_records_are_gone(tmp_path: Path) -> None:
    old = table_of((b"k1", 1, PUT, datum(1)), (b"k2", 2, PUT, datum(2)), (b"k3", 3, PUT, datum(3)))
    # Newest first, as a table holds them.
    new = table_of((b"k2", 5, DELETE, b""), (b"k4", 6, PUT, datum(6)), (b"k4", 4, PUT, datum(4)))
    log = log_of([batch(7, (b"k3", datum(7)), (b"k5", datum(8)), (b"k5", None))])
    records = LevelDbSamples(database(tmp_path / "db", log, {12: old, 5: new}))
    assert labels_of(records) == {"k1": 1, "k3": 7, "k4": 6}


def test_log_that_a_table_has_taken_over_is_not_read(tmp_path: Path) -> None:
    folder = database(tmp_path / "db", log_of([batch(2, (b"a", datum(1)))]))
    (folder / "000001.log").write_bytes(b"old")
    assert labels_of(LevelDbSamples(folder)) == {"a": 1}


def test_space_reserved_in_a_log_holds_nothing(tmp_path: Path) -> None:
    log = log_of([batch(1, (b"a", datum(1)))]) + bytes(2 * CHUNK)
    assert len(LevelDbSamples(database(tmp_path / "db", log))) == 1


def test_folder_of_another_kind_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent: no LevelDB here"):
        LevelDbSamples(tmp_path / "absent")
    with pytest.raises(DataError, match="this is an LMDB: write backend: LMDB"):
        LevelDbSamples(GOLDEN / "raw_lmdb")
    with pytest.raises(DataError, match="holds no samples"):
        LevelDbSamples(database(tmp_path / "empty"))
    with pytest.raises(DataError, match="ordered by b'mine'"):
        LevelDbSamples(database(tmp_path / "mine", comparator=b"mine"))


def test_manifest_outside_the_folder_is_refused(tmp_path: Path) -> None:
    folder = database(tmp_path / "db")
    (folder / "CURRENT").write_text("../db/MANIFEST-000002\n")
    with pytest.raises(DataError, match=r"CURRENT: .*names the manifest"):
        LevelDbSamples(folder)


def test_missing_and_truncated_tables_are_reported_by_name(tmp_path: Path) -> None:
    folder = shutil.copytree(GOLDEN / "raw_leveldb", tmp_path / "db")
    table = folder / "000005.ldb"
    whole = table.read_bytes()
    table.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=r"000005\.ldb: .*12091 bytes of 12092"):
        LevelDbSamples(folder)
    table.unlink()
    with pytest.raises(DataError, match=r"lacks its table 000005\.ldb"):
        LevelDbSamples(folder)
    table.with_suffix(".sst").write_bytes(whole)  # as LevelDB called it before 2012
    assert len(LevelDbSamples(folder)) == 10


def test_truncated_log_is_reported_by_name(tmp_path: Path) -> None:
    log = log_of([batch(1, (b"a", datum(1))), batch(2, (b"b", datum(2)))])
    for cut in (1, 15):
        folder = database(tmp_path / f"{cut}", log[:-cut])
        with pytest.raises(DataError, match=r"000003\.log: .*its last record is cut off"):
            LevelDbSamples(folder)


def test_blocks_named_twice_are_refused(tmp_path: Path) -> None:
    """Else a small file could announce more samples than memory holds."""
    index_entry = b"\x00\x09\x02" + b"k" + struct.pack("<Q", PUT) + varint(0) + varint(30)
    data = b"\x00\x09\x0a" + b"k" + struct.pack("<Q", PUT) + bytes(10)
    data = stored(data + struct.pack("<II", 0, 1))
    index = index_entry * 1000 + struct.pack("<II", 0, 1)
    footer = (bytes(2) + varint(35) + varint(len(index))).ljust(40, b"\0")
    table = data + stored(index) + footer + struct.pack("<Q", 0xDB4775248B80FB57)
    with pytest.raises(DataError, match="blocks overlap"):
        LevelDbSamples(database(tmp_path / "db", tables={5: table}))


@pytest.mark.parametrize("name", ["MANIFEST-000004", "000005.ldb"])
def test_a_flipped_bit_shows_in_the_checksum(name: str, tmp_path: Path) -> None:
    folder = shutil.copytree(GOLDEN / "raw_leveldb", tmp_path / "db")
    whole = bytearray((folder / name).read_bytes())
    whole[len(whole) * 3 // 4] ^= 1
    (folder / name).write_bytes(whole)
    with pytest.raises(DataError, match=rf"{name}: .*its checksum differs"):
        LevelDbSamples(folder)


def test_countless_small_keys_are_refused(tmp_path: Path) -> None:
    keys = [(b"%06d" % number, b"") for number in range(200_000)]
    log = log_of([batch(at + 1, *keys[at : at + 2000]) for at in range(0, len(keys), 2000)])
    with pytest.raises(DataError, match=r"000003\.log: .*too many keys"):
        LevelDbSamples(database(tmp_path / "db", log))


@pytest.mark.parametrize("name", ["CURRENT", "MANIFEST-000004", "000005.ldb"])
def test_damage_anywhere_is_an_error_of_ours_or_shows_in_no_size(name: str, tmp_path: Path) -> None:
    """Whatever a byte is changed to, reading ends with an error of the tree or with samples."""
    folder = shutil.copytree(GOLDEN / "raw_leveldb", tmp_path / "db")
    whole = (folder / name).read_bytes()
    refused = 0
    for at in [*range(0, len(whole), 97), *range(max(0, len(whole) - 300), len(whole), 3)]:
        (folder / name).write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            records = LevelDbSamples(folder)
            for index in range(len(records)):
                records.read(index)
        except CaffeKDError:
            refused += 1
    assert refused

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from caffe_kd.core.errors import DataError
from caffe_kd.verify.recording import read_recording, write_recording

ARRAYS = {
    "in/data": np.arange(6, dtype=np.uint8).reshape(2, 3),
    "out/a/b": np.array([1.5, np.nan], np.float32),
    "loss": np.array(3.0),
}


def npy(array: np.ndarray, **change: bytes) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    content = stream.getvalue()
    for old, new in change.items():
        assert old.encode() in content
        content = content.replace(old.encode(), new)
    return content


def archive(folder: Path, **members: bytes) -> Path:
    path = folder / "a.npz"
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write_recording(tmp_path / "new" / "a.npz", ARRAYS)
    read = read_recording(tmp_path / "new" / "a.npz")
    assert list(read) == list(ARRAYS)
    for name, value in ARRAYS.items():
        np.testing.assert_array_equal(read[name], value)
        assert read[name].dtype == value.dtype


def test_numpys_own_files_are_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.asfortranarray(np.eye(3)), y=np.zeros((0, 2)))
    read = read_recording(tmp_path / "a.npz")
    np.testing.assert_array_equal(read["x"], np.eye(3))
    assert read["y"].shape == (0, 2)


def test_code_in_a_recording_is_not_run(tmp_path: Path) -> None:
    class Dangerous:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    content = npy(np.array([Dangerous()], dtype=object))
    with pytest.raises(DataError, match="'x' holds no numbers"):
        read_recording(archive(tmp_path, x=content))
    assert not (tmp_path / "ran").exists()


def test_header_that_asks_for_more_than_there_is_takes_no_memory(tmp_path: Path) -> None:
    content = npy(np.zeros(1000), **{"(1000,)": b"(9999,)"})
    with pytest.raises(DataError, match="not as many as it states"):
        read_recording(archive(tmp_path, x=content))


@pytest.mark.parametrize(
    "content",
    [b"", b"\x93NUMPY", b"no array", npy(np.zeros(3))[:-4], npy(np.array(["a"]))],
)
def test_member_that_is_no_array_is_reported(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match="'x'"):
        read_recording(archive(tmp_path, x=content))


def test_file_that_is_no_archive_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"a.npz: is not an .npz file"):
        read_recording(tmp_path / "a.npz")
    with pytest.raises(DataError, match="no such file"):
        read_recording(tmp_path / "none.npz")
    path = archive(tmp_path, x=npy(np.zeros(100)))
    path.write_bytes(path.read_bytes().replace(b"\0" * 64, b"\1" * 64, 1))
    with pytest.raises(DataError, match="damaged"):
        read_recording(path)

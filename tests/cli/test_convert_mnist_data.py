from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from caffe_kd.cli.convert_mnist_data import main
from caffe_kd.data.backends.idx import write_idx
from caffe_kd.data.backends.lmdb import LmdbSamples

TOOL = Path(__file__).parents[2] / "tools" / "convert_mnist_data.py"
PIXELS = np.random.default_rng(0).integers(0, 256, (1003, 3, 4), np.uint8)
DIGITS = (np.arange(1003) % 10).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_idx(tmp_path / "images", PIXELS)
    write_idx(tmp_path / "labels", DIGITS)
    return tmp_path


def test_tool_writes_caffes_keys_and_datum(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", str(TOOL), "images", "labels", "new/db", "-backend", "lmdb"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "A total of 1003 items." in done.stdout
    samples = LmdbSamples(folder / "new" / "db")
    assert len(samples) == 1003
    assert [samples.key(index) for index in (0, 10, 1002)] == [
        b"00000000",
        b"00000010",
        b"00001002",
    ]
    images, labels = samples.batch(slice(None))
    np.testing.assert_array_equal(images, PIXELS[:, None])
    np.testing.assert_array_equal(labels, DIGITS)


def test_existing_database_is_kept_without_overwrite(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["images", "labels", "db"]) == 0
    write_idx(folder / "images", PIXELS[:2])
    write_idx(folder / "labels", DIGITS[:2])
    assert main(["images", "labels", "db", "--backend=lmdb"]) == 1
    assert "error: db: exists already; give -overwrite" in capsys.readouterr().err
    assert len(LmdbSamples(folder / "db")) == 1003
    assert main(["images", "labels", "db", "-overwrite"]) == 0
    assert len(LmdbSamples(folder / "db")) == 2


def test_bad_input_is_one_error_and_no_database(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_idx(folder / "few", DIGITS[:3])
    (folder / "cut").write_bytes((folder / "images").read_bytes()[:500])
    for images, labels, message in (
        ("images", "few", "1003 images, 3 labels"),
        ("cut", "labels", "truncated"),
        ("absent", "labels", "absent: no such file, nor 'absent.gz'"),
        ("labels", "images", "wrong magic number"),
    ):
        assert main([images, labels, "db"]) == 1
        assert message in capsys.readouterr().err
        assert not (folder / "db").exists()


def test_other_backend_is_a_usage_error(folder: Path) -> None:
    assert main(["images", "labels", "db", "-backend", "leveldb"]) == 2


def test_files_are_found_with_gz_as_they_were_downloaded(folder: Path) -> None:
    for name in ("images", "labels"):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()
    assert main(["images", "labels", "db"]) == 0
    np.testing.assert_array_equal(LmdbSamples(folder / "db").batch(slice(None))[1], DIGITS)

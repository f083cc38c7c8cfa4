from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from caffe_kd.cli import get_cifar10 as command
from caffe_kd.cli.train import main as train
from caffe_kd.core.errors import DataError
from caffe_kd.data import cifar10
from caffe_kd.data.backends.lmdb import LmdbSamples, write_lmdb
from caffe_kd.data.cifar10 import CLASSES, MEAN, TEST, TRAIN, Cifar10, get_cifar10
from caffe_kd.data.image_file import encode_image
from caffe_kd.data.stand_in import CIFAR10_JPEG, COLORED_DIGITS, is_stand_in, origin_of
from caffe_kd.proto import caffe_pb2 as pb

SHARED = Path(__file__).parents[3] / "shared" / "data" / "cifar10"
COUNTS = {TRAIN: 20, TEST: 10}
NET = f"""layer {{ name: "d" type: "Data" top: "data" top: "label"
  transform_param {{ mean_file: "{MEAN}" }}
  data_param {{ source: "{TRAIN}" backend: LMDB batch_size: 4 }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param {{ num_output: 10 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }}
"""


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two training images a class, and one for testing."""
    monkeypatch.setattr(cifar10, "COUNTS", COUNTS)


def color(label: int, number: int) -> np.ndarray:
    """An image of one colour: blue, green, red."""
    values = np.array([10 * label, 100 + 50 * number, 250 - 20 * label], np.uint8)
    return np.tile(values[:, None, None], (1, 32, 32))


def write_zips(folder: Path, names: list[str] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    for name, each in (("train.zip", 2), ("test.zip", 1)):
        with zipfile.ZipFile(folder / name, "w") as archive:
            for label, title in enumerate(names or CLASSES):
                for number in range(each):
                    image = encode_image(color(label, number), "jpg")
                    archive.writestr(f"{title}/{number:04d}.jpg", image)
    return folder


def write_archive(folder: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Write a small archive of the binary form; return its training images, [20, 3, 32, 32]."""
    folder.mkdir(exist_ok=True)
    values = np.random.default_rng(0).integers(0, 256, (24, 3073), np.uint8)
    values[:, 0] = np.arange(24) % 10
    with tarfile.open(folder / cifar10.ARCHIVE, "w:gz") as tar:
        for index, name in enumerate([*cifar10._BATCHES[TRAIN], *cifar10._BATCHES[TEST]]):
            content = values[4 * index : 4 * index + 4].tobytes()
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    content = (folder / cifar10.ARCHIVE).read_bytes()
    monkeypatch.setattr(cifar10, "COUNTS", {TRAIN: 20, TEST: 4})
    monkeypatch.setattr(cifar10, "_BATCH_IMAGES", 4)
    monkeypatch.setattr(cifar10, "_ARCHIVE_BYTES", len(content))
    monkeypatch.setattr(cifar10, "_ARCHIVE_SHA256", hashlib.sha256(content).hexdigest())
    return values[:20, 1:].reshape(-1, 3, 32, 32)


def get(
    out: Path, *search: Path, urls: tuple[str, ...] = (), download: bool = True
) -> tuple[Cifar10, str]:
    said: list[str] = []
    return get_cifar10(out, search, download, said.append, urls), "\n".join(said)


def read(path: Path) -> tuple[np.ndarray, list[int]]:
    samples = LmdbSamples(path)
    images, labels = zip(*(samples.read(index) for index in range(len(samples))), strict=True)
    return np.stack(images), list(labels)


def test_jpeg_files_become_databases_in_a_mixed_order_and_a_mean(tmp_path: Path, few: None) -> None:
    found, said = get(tmp_path / "out", write_zips(tmp_path / "zips"))
    assert found == Cifar10("CIFAR-10 from JPEG", tmp_path / "out")
    assert "figures differ a little from those of the original bytes" in said
    images, labels = read(tmp_path / "out" / TRAIN)
    assert np.bincount(labels).tolist() == [2] * 10
    assert labels != sorted(labels)
    for image, label in zip(images.astype(int), labels, strict=True):
        blue_green_red = image[::-1, 16, 16]  # the database has red, green, blue
        assert min(np.abs(blue_green_red - color(label, n)[:, 0, 0]).max() for n in (0, 1)) < 6
    mean = pb.BlobProto.FromString((tmp_path / "out" / MEAN).read_bytes())
    np.testing.assert_allclose(np.array(mean.data), images.mean(0).ravel(), rtol=1e-5)
    assert LmdbSamples(tmp_path / "out" / TRAIN).key(7) == b"00007"
    assert len(LmdbSamples(tmp_path / "out" / TEST)) == 10


def test_the_order_is_the_same_each_time(tmp_path: Path, few: None) -> None:
    zips = write_zips(tmp_path / "zips")
    labels = [read(get(tmp_path / name, zips)[0].folder / TRAIN)[1] for name in ("a", "b")]
    assert labels[0] == labels[1]


def test_second_run_does_nothing(tmp_path: Path, few: None) -> None:
    zips = write_zips(tmp_path / "zips")
    first = get(tmp_path / "out", zips)[0]
    written = [os.stat(tmp_path / "out" / name).st_mtime_ns for name in (TRAIN, TEST, MEAN)]
    found, said = get(tmp_path / "out", zips)
    assert found == first
    assert said == f"CIFAR-10 is in {tmp_path / 'out'} already"
    assert written == [os.stat(tmp_path / "out" / n).st_mtime_ns for n in (TRAIN, TEST, MEAN)]


def test_what_a_kill_left_out_is_made(tmp_path: Path, few: None) -> None:
    zips = write_zips(tmp_path / "zips")
    get(tmp_path / "out", zips)
    (tmp_path / "out" / MEAN).unlink()
    assert get(tmp_path / "out", zips)[0].kind == "CIFAR-10 from JPEG"
    assert (tmp_path / "out" / MEAN).is_file()


def test_archive_comes_before_jpeg_files_and_keeps_its_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = write_archive(tmp_path / "binary", monkeypatch)
    found, _ = get(tmp_path / "out", write_zips(tmp_path / "zips"), tmp_path / "binary")
    assert found.kind == "CIFAR-10"
    stored, labels = read(tmp_path / "out" / TRAIN)
    np.testing.assert_array_equal(stored, images)
    assert labels == [n % 10 for n in range(20)]
    assert origin_of(tmp_path / "out" / TRAIN) is None


def test_archive_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_archive(tmp_path / "binary", monkeypatch)
    url = (tmp_path / "binary" / cifar10.ARCHIVE).as_uri()
    found, said = get(tmp_path / "out", urls=((tmp_path / "absent").as_uri(), url))
    assert found.kind == "CIFAR-10"
    assert "The download failed: file:///" in said
    assert f"Downloading CIFAR-10 from {url}" in said


def test_download_of_another_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_archive(tmp_path / "binary", monkeypatch)
    monkeypatch.setattr(cifar10, "_ARCHIVE_SHA256", "0" * 64)
    found, said = get(tmp_path / "out", urls=((tmp_path / "binary" / cifar10.ARCHIVE).as_uri(),))
    assert found.kind == "digits"
    assert "wrong checksum or damaged: not the binary version of CIFAR-10" in said
    assert not (tmp_path / "out" / cifar10.ARCHIVE).exists()


def test_zip_of_other_images_is_passed_over(tmp_path: Path, few: None) -> None:
    names = [*CLASSES[:9], "zebra"]
    found, said = get(tmp_path / "out", write_zips(tmp_path / "zips", names), download=False)
    assert found.kind == "digits"
    assert "zips is not used: " in said
    assert "holds 'zebra/0000.jpg', no JPEG of a class of CIFAR-10" in said


def test_digits_stand_in_until_the_real_data_is_found(tmp_path: Path) -> None:
    found, said = get(tmp_path / "out", download=False)
    assert found.kind == "digits"
    assert "figures measured on them are not CIFAR-10's" in said
    images, labels = read(tmp_path / "out" / TRAIN)
    assert images.shape == (1437, 3, 32, 32)
    assert np.bincount(labels).min() > 130
    assert is_stand_in(tmp_path / "out" / TEST)
    written = os.stat(tmp_path / "out" / TRAIN).st_mtime_ns
    assert "What is in" in get(tmp_path / "out", download=False)[1]
    assert os.stat(tmp_path / "out" / TRAIN).st_mtime_ns == written
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cifar10, "COUNTS", COUNTS)
        found, _ = get(tmp_path / "out", write_zips(tmp_path / "zips"))
    assert found.kind == "CIFAR-10 from JPEG"
    assert not is_stand_in(tmp_path / "out" / TRAIN)
    assert not (tmp_path / "out" / COLORED_DIGITS.marker).exists()
    assert (tmp_path / "out" / CIFAR10_JPEG.marker).is_file()


def test_other_data_under_the_same_name_is_not_replaced(tmp_path: Path) -> None:
    datum = pb.Datum(channels=3, height=32, width=32, data=bytes(3072), label=1)
    write_lmdb(tmp_path / TRAIN, [(b"0", datum.SerializeToString())])
    with pytest.raises(DataError, match="holds other data, 1 samples, which would be replaced"):
        get(tmp_path, download=False)
    assert len(LmdbSamples(tmp_path / TRAIN)) == 1


@pytest.mark.parametrize("real", [False, True])
def test_log_of_a_training_says_what_the_data_is(
    tmp_path: Path,
    few: None,
    real: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    get(tmp_path, *([write_zips(tmp_path / "zips")] if real else []), download=False)
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(NET)
    Path("solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.001 lr_policy: "fixed" max_iter: 2 snapshot_prefix: "s"'
    )
    assert train(["-solver", "solver.prototxt"]) == 0
    origin = CIFAR10_JPEG if real else COLORED_DIGITS
    assert f"layer 'd': {TRAIN} is of {origin.what}" in capsys.readouterr().err


def test_command_says_last_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.main(["-dir", "here", "-no_download"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "digits: here"


def test_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert command.main(["-dir", str(tmp_path / "file" / "inside"), "-no_download"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/cifar10 is absent")
def test_real_zip_files_hold_every_image_of_every_class() -> None:
    assert len(cifar10._shuffled(SHARED / "train.zip")) == 50_000
    assert len(cifar10._shuffled(SHARED / "test.zip")) == 10_000

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffe_kd.cli.train import main as train
from caffe_kd.core.errors import CaffeKDError, DataError
from caffe_kd.data import download
from caffe_kd.data.backends.idx import IMAGES, LABELS, open_idx, read_idx, read_pair, write_idx
from caffe_kd.data.mnist import FILES, Digits, get_mnist
from caffe_kd.data.stand_in import MARKER, is_stand_in

SHARED = Path(__file__).parents[3] / "shared" / "data" / "mnist"
needs_mnist = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/mnist is absent")
NET = f"""layer {{ name: "d" type: "Data" top: "data" top: "label"
  data_param {{ source: "{FILES[0].name}" backend: IDX batch_size: 4 }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param {{ num_output: 10 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }}
"""
ENDLESS = 1000  # letters, one in a fifth of a second
NAMES = [file.name for file in FILES]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """A mirror on this machine: its address, and the folder it serves."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            # A client that has seen that it is another file goes away before its end.
            if not isinstance(sys.exc_info()[1], ConnectionError):
                super().handle_error(request, client_address)

    monkeypatch.setattr("caffe_kd.data.download._PATIENCE_SECONDS", 300.0)  # also on a busy machine
    handler = functools.partial(Quiet, directory=str(folder))
    with Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", folder
        server.shutdown()


def fill(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name in NAMES:
        (folder / f"{name}.gz").symlink_to(SHARED / f"{name}.gz")
    return folder


def get(
    out: Path, *search: Path, mirrors: tuple[str, ...] = (), download: bool = True
) -> tuple[Digits, str]:
    said: list[str] = []
    return get_mnist(out, search, download, said.append, mirrors), "\n".join(said)


@needs_mnist
def test_found_in_a_search_dir_is_used_where_it_is(tmp_path: Path) -> None:
    digits, said = get(tmp_path / "out", tmp_path / "nowhere", SHARED)
    assert digits == Digits("MNIST", SHARED)
    assert f"MNIST found in {SHARED}" in said
    assert not (tmp_path / "out").exists()


@needs_mnist
def test_found_in_out_dir_comes_first_plain_or_packed(tmp_path: Path) -> None:
    out = fill(tmp_path / "out")
    (out / f"{NAMES[3]}.gz").unlink()
    write_idx(out / NAMES[3], read_idx(SHARED / f"{NAMES[3]}.gz", LABELS))
    assert get(out, SHARED)[0] == Digits("MNIST", out)


@needs_mnist
def test_damaged_or_other_files_are_reported_and_passed_over(tmp_path: Path) -> None:
    out, other = fill(tmp_path / "out"), fill(tmp_path / "other")
    (out / f"{NAMES[1]}.gz").unlink()
    (out / f"{NAMES[1]}.gz").write_bytes((SHARED / f"{NAMES[1]}.gz").read_bytes()[:20000])
    write_idx(other / NAMES[3], np.zeros(10000, np.uint8))
    digits, said = get(out, other, SHARED)
    assert digits.folder == SHARED
    assert f"{out} is not used: {out / NAMES[1]}.gz: the gzip file is truncated" in said
    assert f"{other} is not used: {other / NAMES[3]}: an IDX file, but not MNIST's" in said


@needs_mnist
def test_download_takes_what_is_missing_from_the_mirror_that_has_it(
    tmp_path: Path, served: tuple[str, Path]
) -> None:
    mirror, folder = served
    fill(folder)
    out = tmp_path / "out"
    out.mkdir()
    (out / f"{NAMES[0]}.gz").symlink_to(SHARED / f"{NAMES[0]}.gz")
    (out / NAMES[2]).write_bytes(b"half a file")
    digits, said = get(out, mirrors=(f"{mirror}absent/", mirror))
    assert digits == Digits("MNIST", out)
    assert f"The download failed: {mirror}absent/{NAMES[1]}.gz: HTTP Error 404" in said
    assert (out / f"{NAMES[0]}.gz").is_symlink()
    assert sorted(p.name for p in out.iterdir()) == sorted(f"{name}.gz" for name in NAMES)
    assert get(out, download=False)[0] == digits


def test_other_data_under_the_same_names_is_not_replaced(tmp_path: Path) -> None:
    for name, count in zip(NAMES, (30, 30, 20, 20), strict=True):  # such as Fashion-MNIST's
        shape = (count, 28, 28) if "images" in name else (count,)
        write_idx(tmp_path / name, np.full(shape, 7, np.uint8))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(DataError, match="holds other data under the names of MNIST's files"):
        get(tmp_path, download=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_download_of_wrong_files_is_refused(tmp_path: Path, served: tuple[str, Path]) -> None:
    mirror, folder = served
    write_idx(folder / f"{NAMES[0]}.gz", np.zeros((5, 28, 28), np.uint8))
    digits, said = get(tmp_path / "out", mirrors=(mirror,))
    assert digits.kind == "digits"
    assert "The download failed" in said
    assert "wrong checksum" in said
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted([*NAMES, MARKER])


def test_download_of_an_endless_file_stops(tmp_path: Path, served: tuple[str, Path]) -> None:
    mirror, folder = served
    with (folder / f"{NAMES[0]}.gz").open("wb") as file:
        file.truncate(1 << 36)  # takes no room on disk
    digits, said = get(tmp_path / "out", mirrors=(mirror,))
    assert digits.kind == "digits"
    assert "wrong checksum or damaged" in said


def test_dead_network_is_noticed_in_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert download._PATIENCE_SECONDS < 10
    monkeypatch.setattr(download, "_PATIENCE_SECONDS", 0.5)
    with socket.socket() as silent:  # accepts connections and never replies
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        digits, said = get(
            tmp_path,
            mirrors=(f"http://127.0.0.1:{silent.getsockname()[1]}/", "http://127.0.0.1:1/"),
        )
    assert digits.kind == "digits"
    assert "timed out" in said or "no response within" in said
    assert "refused" in said


def test_mirror_that_sends_a_byte_at_a_time_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_PATIENCE_SECONDS", 1.0)
    given_up = threading.Event()
    letters = 0
    with socket.socket() as slow:
        slow.bind(("127.0.0.1", 0))
        slow.listen()

        def drip() -> None:
            nonlocal letters
            connection, _ = slow.accept()
            with connection, contextlib.suppress(ConnectionError):
                while not given_up.wait(0.2) and letters < ENDLESS:
                    connection.sendall(b"H")
                    letters += 1

        mirror = threading.Thread(target=drip, daemon=True)
        mirror.start()
        _, said = get(tmp_path, mirrors=(f"http://127.0.0.1:{slow.getsockname()[1]}/",))
        given_up.set()
        mirror.join()
    assert "no response within 1 seconds" in said
    assert letters < ENDLESS


def test_without_mnist_the_small_digits_are_written(tmp_path: Path) -> None:
    digits, said = get(tmp_path, download=False)
    assert digits == Digits("digits", tmp_path)
    assert "figures measured on them are not MNIST's" in said
    assert sorted(p.name for p in digits.folder.iterdir()) == sorted([*NAMES, MARKER])
    train, test = (read_idx(digits.folder / NAMES[i], IMAGES) for i in (0, 2))
    train_labels, test_labels = (read_idx(digits.folder / NAMES[i], LABELS) for i in (1, 3))
    assert (train.shape, test.shape) == ((1437, 28, 28), (360, 28, 28))
    assert (len(train_labels), len(test_labels)) == (1437, 360)
    # Stratified: each of ten classes has a tenth of the test digits, give or take two.
    assert np.abs(np.bincount(test_labels, minlength=10) - 36).max() <= 2
    assert np.bincount(train_labels).min() > 130
    assert not train[:, :4].any()
    assert not train[:, :, -4:].any()
    assert (train.min(), train.max()) == (0, 255)


def test_small_digits_look_like_their_labels(tmp_path: Path) -> None:
    folder = get(tmp_path, download=False)[0].folder
    train, test = (read_idx(folder / NAMES[i], IMAGES).astype(float) for i in (0, 2))
    train_labels, test_labels = (read_idx(folder / NAMES[i], LABELS) for i in (1, 3))
    means = np.stack([train[train_labels == label].mean(0) for label in range(10)])
    distances = ((test[:, None] - means) ** 2).sum((2, 3))
    # The nearest class mean is right for 89 % of scikit-learn's digits; shuffled labels give 10 %.
    assert (distances.argmin(1) == test_labels).mean() > 0.85


def test_small_digits_are_made_once_and_again_where_damaged(tmp_path: Path) -> None:
    folder = get(tmp_path, download=False)[0].folder
    contents = {name: (folder / name).read_bytes() for name in NAMES}
    written = os.stat(folder / NAMES[0]).st_mtime_ns
    get(tmp_path, download=False)
    assert os.stat(folder / NAMES[0]).st_mtime_ns == written
    (folder / NAMES[2]).write_bytes(contents[NAMES[2]][:5000])
    get(tmp_path, download=False)
    assert {name: (folder / name).read_bytes() for name in NAMES} == contents


@needs_mnist
def test_real_files_win_over_small_digits_that_were_there_before(tmp_path: Path) -> None:
    get(tmp_path, download=False)
    for name in NAMES:
        assert is_stand_in(tmp_path / name)
        shutil.copyfile(SHARED / f"{name}.gz", tmp_path / f"{name}.gz")
    digits, said = get(tmp_path, download=False)
    assert digits == Digits("MNIST", tmp_path)
    assert f"MNIST found in {tmp_path}" in said
    assert len(open_idx(str(tmp_path / NAMES[0]), Path)) == 60000
    assert len(read_pair(tmp_path / NAMES[2], tmp_path / NAMES[3])[1]) == 10000


@needs_mnist
def test_real_files_in_place_of_small_digits_are_no_stand_ins(tmp_path: Path) -> None:
    get(tmp_path, download=False)
    write_idx(tmp_path / NAMES[1], read_idx(SHARED / f"{NAMES[1]}.gz", LABELS))
    assert [is_stand_in(tmp_path / name) for name in NAMES] == [True, False, True, True]
    with pytest.raises(DataError, match="which would be replaced"):
        get(tmp_path, download=False)
    with pytest.raises(DataError, match="images and labels differ in number"):
        open_idx(str(tmp_path / NAMES[0]), Path)


def test_training_on_small_digits_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    get(tmp_path, download=False)
    Path("net.prototxt").write_text(NET)
    Path("solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" max_iter: 2 snapshot_prefix: "s"'
    )
    assert train(["-solver", "solver.prototxt"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "scikit-learn" in line]
    assert len(lines) == 1
    assert f"layer 'd': {NAMES[0]} is of the 1797 small digits" in lines[0]
    (tmp_path / MARKER).unlink()  # files of the user's own
    assert train(["-solver", "solver.prototxt"]) == 0
    assert "scikit-learn" not in capsys.readouterr().err


def test_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CaffeKDError, match="cannot be written"):
        get(tmp_path / "file" / "inside", download=False)


@needs_mnist
def test_files_of_mnist_are_caffes() -> None:
    for file in FILES:
        assert (SHARED / f"{file.name}.gz").stat().st_size == file.gzip_bytes

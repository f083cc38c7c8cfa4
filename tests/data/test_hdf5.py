from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from caffe_kd.core.errors import CaffeKDError, DataError
from caffe_kd.data.hdf5 import HDF5Rows

TOPS = ["data", "label"]
COUNTS = [5, 1, 4]


def write(path: Path, first: int, count: int) -> None:
    numbers = np.arange(first, first + count)
    with h5py.File(path, "w") as file:
        file["data"] = numbers[:, None, None] * np.ones((1, 2, 3))
        file["label"] = numbers
        file["unused"] = np.zeros(3)


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """A list of three files whose rows are numbered through."""
    for index, first in enumerate(np.cumsum([0, *COUNTS[:-1]])):
        write(tmp_path / f"{index}.h5", int(first), COUNTS[index])
    (tmp_path / "list.txt").write_text("0.h5\n1.h5\n\n2.h5\n")
    return tmp_path / "list.txt"


def one_file(folder: Path, name: str = "0.h5") -> Path:
    (folder / "list.txt").write_text(name)
    return folder / "list.txt"


def test_read_all_rows_in_file_order(listed: Path) -> None:
    rows = HDF5Rows(listed, TOPS)
    assert len(rows) == 10
    assert rows.row_shapes == [(2, 3), ()]
    data, label = rows.read(rows.order())
    assert (data.dtype, label.dtype) == (np.float32, np.float32)  # label is int64 in the file
    np.testing.assert_array_equal(label, np.arange(10))
    np.testing.assert_array_equal(data, np.arange(10)[:, None, None] * np.ones((1, 2, 3)))


def test_read_keeps_the_order_asked_for_across_files(listed: Path) -> None:
    wanted = np.array([9, 0, 5, 5, 1, 8])
    data, label = HDF5Rows(listed, TOPS).read(wanted)
    np.testing.assert_array_equal(label, wanted)
    np.testing.assert_array_equal(data[:, 1, 2], wanted)


def test_read_holds_one_file_at_a_time(listed: Path) -> None:
    rows = HDF5Rows(listed, TOPS)
    rows.read(np.arange(5))
    (listed.parent / "0.h5").unlink()
    rows.read(np.arange(5))  # still in memory
    rows.read(np.array([5]))
    with pytest.raises(DataError, match="0.h5: no such file"):
        rows.read(np.array([0]))


def test_order_with_generator_shuffles_files_and_rows_within(listed: Path) -> None:
    rows = HDF5Rows(listed, TOPS)
    draws = torch.Generator().manual_seed(3)
    orders = [rows.order(draws) for _ in range(40)]
    spans = {frozenset(range(5)), frozenset([5]), frozenset(range(6, 10))}
    firsts = set()
    for order in orders:
        assert sorted(order) == list(range(10))
        file_of = np.searchsorted([5, 6], order, side="right")
        sequence = list(dict.fromkeys(file_of.tolist()))
        cuts = np.cumsum([COUNTS[file] for file in sequence])[:-1]
        assert {frozenset(part.tolist()) for part in np.split(order, cuts)} == spans
        firsts.add(tuple(sequence))
    assert len(firsts) == 6  # every order of the files
    assert len({tuple(order) for order in orders}) > 30
    again = rows.order(torch.Generator().manual_seed(3))
    np.testing.assert_array_equal(again, orders[0])


def test_list_paths_are_from_working_directory_then_from_the_list(
    listed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    here = tmp_path_factory.mktemp("here")
    write(here / "0.h5", 100, 2)
    monkeypatch.chdir(here)
    rows = HDF5Rows(listed, ["label"])
    np.testing.assert_array_equal(rows.read(rows.order())[0][:3], [100, 101, 5])


def test_missing_dataset_suggests_the_nearest(listed: Path) -> None:
    with pytest.raises(DataError, match=r"0.h5: no dataset 'lable'.*data, .*mean 'label'\?"):
        HDF5Rows(listed, ["data", "lable"])


def test_missing_list_and_missing_file_are_named(listed: Path) -> None:
    with pytest.raises(CaffeKDError, match="none.txt: no such file"):
        HDF5Rows(listed.with_name("none.txt"), TOPS)
    with pytest.raises(DataError, match="absent.h5: no such file"):
        HDF5Rows(one_file(listed.parent, "absent.h5"), TOPS)
    listed.write_text(" \n")
    with pytest.raises(DataError, match="list.txt: the list names no HDF5 file"):
        HDF5Rows(listed, TOPS)


def test_truncated_anywhere_is_an_error(listed: Path) -> None:
    path = listed.parent / "0.h5"
    whole = path.read_bytes()
    for keep in range(0, len(whole), 97):
        path.write_bytes(whole[:keep])
        with pytest.raises(DataError, match="0.h5: not an HDF5 file, or truncated or damaged"):
            HDF5Rows(listed, TOPS)


def test_truncated_while_training_is_an_error(listed: Path) -> None:
    rows = HDF5Rows(listed, TOPS)
    shutil.copy(listed, listed.parent / "2.h5")
    with pytest.raises(DataError, match="2.h5: not an HDF5 file"):
        rows.read(np.arange(10))


def test_damaged_chunk_is_an_error(tmp_path: Path) -> None:
    content = np.random.default_rng(0).random((50, 40)).astype(np.float32)
    with h5py.File(tmp_path / "0.h5", "w") as file:
        file.create_dataset("data", data=content, chunks=(50, 40), compression="gzip")
        at = file["data"].id.get_chunk_info(0).byte_offset
    damaged = bytearray((tmp_path / "0.h5").read_bytes())
    damaged[at + 20 : at + 60] = bytes(40)
    (tmp_path / "0.h5").write_bytes(damaged)
    rows = HDF5Rows(one_file(tmp_path), ["data"])
    with pytest.raises(DataError, match="truncated or damaged"):
        rows.read(np.arange(3))


def test_different_number_of_rows_is_an_error(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "0.h5", "w") as file:
        file["data"], file["label"] = np.zeros((4, 2)), np.zeros(3)
    with pytest.raises(DataError, match="same number of rows.*'data' 4, 'label' 3"):
        HDF5Rows(one_file(tmp_path), TOPS)


def test_no_rows_are_an_error(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "0.h5", "w") as file:
        file["data"] = np.zeros((0, 2))
    with pytest.raises(DataError, match="at least 1"):
        HDF5Rows(one_file(tmp_path), ["data"])


def test_rows_of_another_shape_in_a_later_file_are_an_error(listed: Path) -> None:
    with h5py.File(listed.parent / "1.h5", "w") as file:
        file["data"], file["label"] = np.zeros((4, 2, 4)), np.zeros(4)
    with pytest.raises(DataError, match=r"1.h5: .*\(2, 4\). Expected: \(2, 3\), as in .*0.h5"):
        HDF5Rows(listed, TOPS)


@pytest.mark.parametrize("value", [3.0, b"text", np.array([True]), np.array([1j])])
def test_datasets_that_are_no_rows_of_numbers_are_an_error(tmp_path: Path, value: object) -> None:
    with h5py.File(tmp_path / "0.h5", "w") as file:
        file["data"] = value
    with pytest.raises(DataError, match="must hold rows of floating-point numbers or integers"):
        HDF5Rows(one_file(tmp_path), ["data"])


def test_group_is_not_a_dataset_but_may_lead_to_one(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "0.h5", "w") as file:
        file["images/left"] = np.arange(3)
    rows = HDF5Rows(one_file(tmp_path), ["images/left"])
    np.testing.assert_array_equal(rows.read(np.arange(3))[0], [0, 1, 2])
    with pytest.raises(DataError, match="'images' is a group"):
        HDF5Rows(one_file(tmp_path), ["images"])
    with pytest.raises(DataError, match="no dataset 'images/left/deeper'"):
        HDF5Rows(one_file(tmp_path), ["images/left/deeper"])


@pytest.mark.parametrize("name", ["data", "folder/data", "soft"])
def test_links_are_not_followed(tmp_path: Path, name: str) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["data"] = np.arange(3)
    with h5py.File(tmp_path / "0.h5", "w") as file:
        file["data"] = h5py.ExternalLink("secret.h5", "/data")
        file["folder"] = h5py.ExternalLink("secret.h5", "/")
        file["soft"] = h5py.SoftLink("/data")
    with pytest.raises(DataError, match=f"'{name}' is a link"):
        HDF5Rows(one_file(tmp_path), [name])


def test_datasets_stored_in_other_files_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(24))
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["data"] = np.arange(3)
    layout = h5py.VirtualLayout((3,), "i8")
    layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "data", (3,))
    with h5py.File(tmp_path / "0.h5", "w") as file:
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("raw", (3,), "f8", external=[(str(tmp_path / "secret"), 0, 24)])
    for name in ("virtual", "raw"):
        with pytest.raises(DataError, match=f"'{name}' lies in other files"):
            HDF5Rows(one_file(tmp_path), [name])


@pytest.mark.parametrize("options", [{}, {"chunks": (1, 1024), "compression": "gzip"}])
@pytest.mark.parametrize("rows", [2**20, 2**40])
def test_absurd_sizes_are_refused_before_memory_is_taken(
    tmp_path: Path, options: dict[str, object], rows: int
) -> None:
    with h5py.File(tmp_path / "0.h5", "w") as file:
        file.create_dataset("data", (rows, 1024), "u1", **options)
    assert (tmp_path / "0.h5").stat().st_size < 10_000
    with pytest.raises(DataError, match="states an absurd size|may grow to"):
        HDF5Rows(one_file(tmp_path), ["data"])


def test_absurd_chunk_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "0.h5", "w") as file:
        file.create_dataset("data", (1,), "u1", chunks=(2**31,), maxshape=(None,))
    with pytest.raises(DataError, match="states an absurd size|may grow to"):
        HDF5Rows(one_file(tmp_path), ["data"])


def test_hdf5_file_in_place_of_the_list_is_named(tmp_path: Path) -> None:
    path = tmp_path / "d.h5"
    with h5py.File(path, "w") as file:
        file["data"] = np.zeros((4, 2), np.float32)
        file["label"] = np.zeros(4, np.float32)
    with pytest.raises(DataError, match="d.h5: is an HDF5 file; source must be a text file that"):
        HDF5Rows(path, ["data"])
    (tmp_path / "list.txt").write_text("d.h5\n")
    with pytest.raises(DataError, match="no dataset 'labels', .* The file has data, label. Did"):
        HDF5Rows(tmp_path / "list.txt", ["data", "labels"])

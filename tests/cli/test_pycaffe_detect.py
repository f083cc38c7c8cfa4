"""Caffe's python/detect.py, compared with pycaffe's Detector."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import caffe_kd as caffe
from caffe_kd.cli.pycaffe_detect import main
from tests.cli.images import write_images, write_mean, write_net

WINDOWS = """filename,xmin,ymin,xmax,ymax
c.jpg,2,3,14,15
a.jpg,0,0,26,23
c.jpg,5,1,25,19.5
"""
# As the table has them: by image, in the order in which they first appear.
ROWS = [("c.jpg", (3, 2, 15, 14)), ("c.jpg", (1, 5, 19.5, 25)), ("a.jpg", (0, 0, 23, 26))]
FLAGS = [
    *("--model_def", "deploy.prototxt", "--pretrained_model", "deploy.caffemodel"),
    *("--crop_mode", "list", "--mean_file", "mean.npy", "--context_pad", "2"),
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_net(tmp_path)
    write_images(tmp_path)
    write_mean(tmp_path)
    Path("in.csv").write_text(WINDOWS)


def expected(context_pad: int = 2) -> list[dict[str, Any]]:
    detector = caffe.Detector(
        "deploy.prototxt", "deploy.caffemodel", mean=np.load("mean.npy").mean((1, 2)),
        raw_scale=255, channel_swap=(2, 1, 0), context_pad=context_pad,
    )  # fmt: skip
    return detector.detect_windows([(name, [window]) for name, window in ROWS])


def rows(path: str) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_windows_of_a_csv_become_rows_of_a_csv(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["in.csv", "out.csv", *FLAGS]) == 0
    found = rows("out.csv")
    assert list(found[0]) == [
        *("filename", "ymin", "xmin", "ymax", "xmax"),
        *(f"class{index}" for index in range(5)),
    ]
    for row, (name, window), wanted in zip(found, ROWS, expected(), strict=True):
        assert row["filename"] == name
        # Whole numbers stay whole.
        assert [row[x] for x in ("ymin", "xmin", "ymax", "xmax")] == [str(x) for x in window]
        values = np.array([row[f"class{index}"] for index in range(5)], np.float32)
        np.testing.assert_array_equal(values, wanted["prediction"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["Loading input...", "CPU mode"]
    assert lines[2].startswith("Processed 3 windows in ")
    assert lines[3].startswith("Saved to out.csv in ")


def test_many_windows_are_seen_in_the_same_batches() -> None:
    edges = [(y, x, y + 9, x + 11) for y in range(0, 10, 2) for x in range(15)]  # more than 64
    lines = [f"a.jpg,{','.join(map(str, edge))}\n" for edge in edges]
    Path("in.csv").write_text("filename, ymin, xmin, ymax, xmax\n" + "".join(lines))
    assert main(["in.csv", "out.csv", *FLAGS, "--context_pad", "0"]) == 0
    detector = caffe.Detector(
        "deploy.prototxt", "deploy.caffemodel", mean=np.load("mean.npy").mean((1, 2)),
        raw_scale=255, channel_swap=(2, 1, 0),
    )  # fmt: skip
    wanted = [x["prediction"] for x in detector.detect_windows([("a.jpg", edges)])]
    values = [[row[f"class{index}"] for index in range(5)] for row in rows("out.csv")]
    np.testing.assert_array_equal(np.array(values, np.float32), wanted)


def test_selective_search_looks_where_its_program_says(monkeypatch: pytest.MonkeyPatch) -> None:
    program = ModuleType("selective_search_ijcv_with_python")  # it needs MATLAB
    asked = []

    def get_windows(names: list[str], cmd: str) -> list[np.ndarray]:
        asked.extend(names)
        return [np.array([(0, 0, 12, 12), (1, 2, 13, 20)]) for _ in names]

    program.get_windows = get_windows  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, program.__name__, program)
    Path("in.txt").write_text("c.jpg\n\na.jpg\n")
    words = [word for word in FLAGS if word not in ("--crop_mode", "list")]
    assert main(["in.txt", "out.csv", *words]) == 0
    names = [str(Path(name).resolve()) for name in ("c.jpg", "a.jpg")]
    assert asked == names
    assert [row["filename"] for row in rows("out.csv")] == [names[0]] * 2 + [names[1]] * 2
    # Images alone are taken from a .csv as well.
    assert main(["in.csv", "more.csv", *words]) == 0
    assert rows("more.csv") == rows("out.csv")


def test_hdf5_is_the_table_that_pandas_reads() -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("tables")
    assert main(["in.csv", "out.h5", *FLAGS]) == 0
    table = pandas.read_hdf("out.h5", "df")
    assert list(table.columns) == ["prediction", "ymin", "xmin", "ymax", "xmax"]
    assert table.index.name == "filename" and list(table.index) == [name for name, _ in ROWS]
    for index, wanted in enumerate(expected()):
        row = table.iloc[index]
        np.testing.assert_array_equal(row["prediction"], wanted["prediction"])
        assert (row["ymin"], row["xmin"], row["ymax"], row["xmax"]) == ROWS[index][1]


@pytest.mark.skipif(
    None not in (importlib.util.find_spec("pandas"), importlib.util.find_spec("tables")),
    reason="pandas and tables are here",
)
def test_hdf5_without_pandas_is_refused_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["in.csv", "out.h5", *FLAGS]) == 2
    captured = capsys.readouterr()
    assert "out.h5: HDF5 is written by pandas and tables" in captured.err
    assert "pip install pandas tables" in captured.err and captured.out == ""


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["gone.csv"], 1, "gone.csv: no such file"),
        (["a.jpg"], 2, "Unknown input file type: not in txt or csv. Received: a.jpg"),
        (["in.txt"], 2, "--crop_mode list takes windows from a .csv. Received: in.txt"),
        (["in.txt", "--crop_mode", "selective_search"], 2, "--crop_mode list takes them from a"),
        (["header.csv"], 1, "header.csv:1: has no column ymin, xmax. Expected a first line such"),
        (["empty.csv"], 1, "empty.csv: has no windows"),
        (["words.csv"], 1, "words.csv:3: a window's edges must be numbers of pixels. Received: 'b"),
        (["short.csv"], 1, "short.csv:2: a window's edges must be numbers of pixels. Received: ''"),
        (["far.csv"], 1, "must lie in its image of (23, 26) pixels"),
        (["images.csv"], 1, "gone.jpg: no such file"),
        (["in.csv", "--channel_swap", "0,1"], 1, "same number of dimensions as the input"),
        (["in.csv", "--context_pad", "6"], 1, "context_pad must leave some of the input's 12"),
        (["in.csv", "--pretrained_model", "gone.caffemodel"], 1, "gone.caffemodel: no such file"),
    ],
)
def test_mistakes_are_reported(
    words: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("in.txt").write_text("a.jpg\n")
    header = WINDOWS.splitlines()[0]
    Path("header.csv").write_text("filename,xmin,top,ymax\n")
    Path("empty.csv").write_text(header)
    Path("words.csv").write_text(f"{header}\na.jpg,1,2,3,4\na.jpg,1,2,b,4\n")
    Path("short.csv").write_text(f"{header}\na.jpg,1,2,3\n")
    Path("far.csv").write_text(f"{header}\na.jpg,50,50,60,60\n")
    Path("images.csv").write_text(f"{header}\ngone.jpg,1,2,3,4\n")
    first, *more = words
    assert main([first, "out.csv", *FLAGS, *more]) == status
    printed = capsys.readouterr().err
    assert message in printed and "Traceback" not in printed
    assert not Path("out.csv").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_gpu_that_is_not_here_is_the_cpu(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from caffe_kd.pycaffe import mode

    monkeypatch.setitem(mode._state, "fell_back", False)
    assert main(["in.csv", "out.csv", *FLAGS, "--gpu"]) == 0
    captured = capsys.readouterr()
    assert "CPU mode" in captured.out and "but there is no CUDA device" in captured.err

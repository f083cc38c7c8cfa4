"""Names that no file can have, wherever a prototxt may name one."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_kd.cli.main import main

INPUT = """
layer { name: "i" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 2 } }
"""
SETTINGS = 'base_lr: 0.1 lr_policy: "fixed" max_iter: 1 '
NAMES = {"nul": r"a\000b", "long": "x" * 5000}

NETS = {
    "lmdb": 'type: "Data" data_param { source: "%s" batch_size: 2 backend: LMDB }',
    "leveldb": 'type: "Data" data_param { source: "%s" batch_size: 2 backend: LEVELDB }',
    "idx": 'type: "Data" data_param { source: "%s" batch_size: 2 backend: IDX }',
    "images": 'type: "ImageData" image_data_param { source: "%s" batch_size: 2 }',
    "root": 'type: "ImageData" image_data_param { source: "list" root_folder: "%s" batch_size: 2 }',
    "rows": 'type: "HDF5Data" hdf5_data_param { source: "%s" batch_size: 2 }',
    "listed": 'type: "HDF5Data" hdf5_data_param { source: "list" batch_size: 2 }',
    "windows": 'type: "WindowData" window_data_param { source: "%s" batch_size: 2 } '
    "transform_param { crop_size: 4 }",
}
SOLVERS = {
    "prefix": 'net: "net.prototxt" snapshot_prefix: "%s"',
    "net": 'net: "%s"',
    "test_net": 'net: "net.prototxt" test_net: "%s" test_iter: 1 test_interval: 1',
    "weights": 'net: "net.prototxt" weights: "%s"',
    "teacher": 'net: "net.prototxt" distiller_net: "net.prototxt" '
    'teacher { net: "%s" weights: "w" }',
    "distiller": 'net: "net.prototxt" distiller_net: "%s" '
    'teacher { net: "net.prototxt" weights: "w" }',
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(INPUT)


def is_one_line(error: str) -> bool:
    (last,) = [line for line in error.splitlines() if line.startswith("error: ")] or [""]
    return 0 < len(last) < 1500 and "\0" not in error and "Traceback" not in error


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("net", NETS)
def test_name_in_a_net_is_one_line(net: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("list").write_bytes(NAMES[name].encode().replace(rb"\000", b"\0") + b" 1\n")
    layer = NETS[net].replace("%s", NAMES[name])
    Path("n.prototxt").write_text('layer { name: "d" top: "data" top: "label" ' + layer + " }")
    assert main(["summarize", "n.prototxt"]) == 1
    assert is_one_line(capsys.readouterr().err)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_name_in_a_solver_is_one_line(
    solver: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("solver.prototxt").write_text(SETTINGS + SOLVERS[solver].replace("%s", NAMES[name]))
    assert main(["train", "-solver", "solver.prototxt", "-no_progress"]) == 1
    assert is_one_line(capsys.readouterr().err)

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from caffe_kd.cli.main import main
from caffe_kd.core.errors import DataError, NetError
from caffe_kd.export.deploy import deploy
from caffe_kd.net import Net
from caffe_kd.proto import text
from tests.helpers import inputs_text, make_net


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def output_net(*shapes: tuple[int, ...], file: str = "out/rows.h5") -> Net:
    return make_net(
        inputs_text(*shapes) + 'layer { name: "o" type: "HDF5Output" bottom: "x0" bottom: "x1" '
        f'hdf5_output_param {{ file_name: "{file}" }} }}'
    )


def give(net: Net, start: int, count: int | None = None) -> dict[str, torch.Tensor]:
    """Run the net on numbers from ``start``, of ``count`` samples or as many as it has."""
    inputs = {}
    for name in ("x0", "x1"):
        shape = list(net.shapes[name])
        shape[0] = shape[0] if count is None else count
        inputs[name] = torch.arange(float(np.prod(shape))).reshape(shape) + start
    net(inputs)
    return inputs


def read(path: str = "out/rows.h5") -> tuple[np.ndarray, np.ndarray]:
    with h5py.File(path, "r") as file:
        assert set(file) == {"data", "label"}
        return file["data"][...], file["label"][...]


def test_one_pass_writes_the_datasets_of_the_original() -> None:
    net = output_net((3, 2, 4, 5), (3,))
    inputs = give(net, 7)
    data, label = read()
    assert (data.dtype, data.shape, label.shape) == (np.float32, (3, 2, 4, 5), (3, 1, 1, 1))
    np.testing.assert_array_equal(data, inputs["x0"])
    np.testing.assert_array_equal(label.ravel(), inputs["x1"])


def test_further_passes_add_their_records() -> None:
    net = output_net((3, 2), (3, 4))
    passes = [give(net, 0), give(net, 100), give(net, 200, count=2)]
    data, label = read()
    assert (data.shape, label.shape) == ((8, 2, 1, 1), (8, 4, 1, 1))
    np.testing.assert_array_equal(data[:, :, 0, 0], torch.cat([p["x0"] for p in passes]))
    np.testing.assert_array_equal(label[:, :, 0, 0], torch.cat([p["x1"] for p in passes]))


def test_another_net_begins_the_file_anew() -> None:
    give(output_net((3, 2), (3,)), 0)
    net = output_net((2, 5), (2,))
    assert read()[0].shape == (3, 2, 1, 1)  # building it leaves the file alone
    give(net, 0)
    assert read()[0].shape == (2, 5, 1, 1)


def test_hdf5_data_reads_what_was_written() -> None:
    inputs = give(output_net((4, 3), (4,), file="rows.h5"), 1)
    Path("list.txt").write_text("rows.h5\n")
    net = make_net(
        'layer { name: "h" type: "HDF5Data" top: "data" top: "label" '
        'hdf5_data_param { source: "list.txt" batch_size: 4 } }'
    )
    net()
    assert torch.equal(net.blobs["data"].reshape(4, 3), inputs["x0"])
    assert torch.equal(net.blobs["label"].reshape(4), inputs["x1"])


def test_gradient_is_left_alone() -> None:
    net = output_net((2, 3), (2,))
    x = torch.ones(2, 3, requires_grad=True)
    assert net({"x0": x, "x1": torch.zeros(2)}) is None
    assert read()[0].shape == (2, 3, 1, 1)


def test_it_is_not_deployed() -> None:
    net = make_net(
        inputs_text((2, 3), (2,)) + 'layer { name: "r" type: "ReLU" bottom: "x0" top: "y" }'
        'layer { name: "o" type: "HDF5Output" bottom: "y" bottom: "x1" '
        'hdf5_output_param { file_name: "o.h5" } }'
    )
    assert "HDF5Output" not in [layer.type for layer in deploy(net.param).layer]


@pytest.mark.parametrize(
    ("shapes", "file", "message"),
    [
        (((3, 2), (2,)), "o.h5", "the same batch size. Received: data=3, label=2"),
        (((2, 1, 1, 1, 1), (2,)), "o.h5", "Cannot use legacy accessors on Blobs with > 4 axes"),
        (((2, 3), (2,)), "", "needs a file_name"),
    ],
)
def test_wrong_bottoms_and_settings_are_reported(
    shapes: tuple[tuple[int, ...], ...], file: str, message: str
) -> None:
    with pytest.raises(NetError, match=r"layer 'o' \(HDF5Output\): .*" + message):
        output_net(*shapes, file=file)


def test_records_of_another_shape_are_reported() -> None:
    net = output_net((2, 3), (2,))
    give(net, 0)
    with pytest.raises(NetError, match=r"keep their shape from pass to pass.*sample=\(4, 1, 1\)"):
        net.forward({"x0": torch.zeros(2, 4), "x1": torch.zeros(2)})
    with pytest.raises(NetError, match="samples of 'label' must keep"):
        net.forward({"x0": torch.zeros(2, 3), "x1": torch.zeros(2, 2)})
    assert read()[0].shape == (2, 3, 1, 1)


def test_file_that_cannot_be_written_is_reported() -> None:
    Path("out").write_text("in the way")
    with pytest.raises(DataError, match=r"out/rows\.h5: layer 'o' \(HDF5Output\): cannot be wr"):
        give(output_net((2, 3), (2,)), 0)


def as_text(path: Path) -> None:
    path.write_text("my notes")


def as_data(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["data"], file["label"] = np.zeros((2, 3)), np.zeros(2)


@pytest.mark.parametrize("make", [as_text, as_data, Path.mkdir])
def test_file_of_something_else_is_not_replaced(make: Callable[[Path], None]) -> None:
    path = Path("mine")
    make(path)
    before = path.read_bytes() if path.is_file() else None
    net = output_net((3, 2), (3,), file="mine")
    with pytest.raises(DataError, match=r"mine: layer 'o' .*not written by such a layer"):
        give(net, 0)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_file_of_an_earlier_run_is_replaced() -> None:
    give(output_net((3, 2), (3,)), 0)
    give(output_net((4, 2), (4,)), 0)
    assert read()[0].shape == (4, 2, 1, 1)


def test_time_writes_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    net = output_net((3, 2), (3,))
    Path("net.prototxt").write_text(text.to_text(net.param))
    assert main(["time", "-model", "net.prototxt", "-iterations", "1"]) == 0
    assert not Path("out").exists()

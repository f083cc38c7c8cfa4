"""Weights and solver states as HDF5: Caffe's layout, and files that must be refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from caffe_kd.core.errors import ParseError, WeightsError
from caffe_kd.proto import binary, caffe_pb2, text

SOLVERS = Path(__file__).parents[1] / "golden" / "solvers"
WEIGHTS = SOLVERS / "sgd_hdf5_snapshot_iter_6.caffemodel.h5"
STATE = SOLVERS / "sgd_hdf5_snapshot_iter_6.solverstate.h5"


def layout(path):
    """What a program that reads Caffe's files can see: kinds, shapes, values."""
    seen = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            kind = item.id.get_type()
            detail = kind.get_strpad() if kind.get_class() == h5py.h5t.STRING else None
            seen[name] = (kind.get_class(), kind.get_size(), detail, item.shape, item[()].tolist())
        else:
            seen[name] = "group"

    with h5py.File(path) as file:
        file.visititems(visit)
    return seen


def net_of(*names):
    net = caffe_pb2.NetParameter()
    for name in names:
        net.layer.add(name=name)
    return net


def made(path, build):
    with h5py.File(path, "w") as file:
        build(file)
    return path


def test_read_weights_of_caffe():
    weights = {layer.name: layer for layer in binary.read_weights(WEIGHTS)}
    net = text.read(SOLVERS / "net.prototxt", caffe_pb2.NetParameter())
    assert set(weights) == {layer.name for layer in net.layer}
    recorded = np.load(SOLVERS / "sgd_hdf5_snapshot.npz")
    sixth = {k[6:]: recorded[k][5] for k in recorded.files if k.startswith("param/")}
    read = {
        f"{layer.name}/{i}": blob
        for layer in weights.values()
        for i, blob in enumerate(layer.blobs)
        if blob is not None
    }
    assert set(sixth) - set(read) == {"ip2/0"}  # shared with ip1, which holds it
    for name, blob in read.items():
        assert blob.dtype == np.float32
        assert np.array_equal(blob, sixth[name])
    assert weights["ip2"].blobs[0] is None
    assert weights["relu1"].blobs == []


def test_write_weights_has_caffes_layout(tmp_path):
    net = text.read(SOLVERS / "net.prototxt", caffe_pb2.NetParameter())
    weights = {layer.name: layer.blobs for layer in binary.read_weights(WEIGHTS)}
    binary.write_weights_hdf5(tmp_path / "copy.h5", net, weights)
    assert layout(tmp_path / "copy.h5") == layout(WEIGHTS)


def test_write_weights_with_diffs(tmp_path):
    path = tmp_path / "w.h5"
    weights = {"a": [np.ones((2, 3), "f4")]}
    binary.write_weights_hdf5(path, net_of("a", "b"), weights, {"a": [np.zeros((2, 3), "f4")]})
    assert [n for n, v in layout(path).items() if v == "group"] == [
        "data",
        "data/a",
        "data/b",
        "diff",
        "diff/a",
        "diff/b",
    ]
    assert layout(path)["diff/a/0"][3:] == ((2, 3), [[0, 0, 0]] * 2)
    assert binary.read_weights(path)[0].blobs[0].tolist() == [[1, 1, 1]] * 2


def test_layers_with_slashes_and_many_blobs_are_read_back(tmp_path):
    names = ["inception/1x1", "inception/3x3/reduce", "inception", "deep", "inception/pool"]
    weights = {name: [np.full((2,), i, "f4")] for i, name in enumerate(names[:-1])}
    weights["deep"] = [np.full((1,), i, "f4") for i in range(12)]
    weights["inception/pool"] = []
    binary.write_weights_hdf5(tmp_path / "w.h5", net_of(*names), weights)
    read = {layer.name: layer for layer in binary.read_weights(tmp_path / "w.h5")}
    assert set(read) == set(names)
    for name in names:
        assert [b.tolist() for b in read[name].blobs] == [b.tolist() for b in weights[name]]


def test_write_weights_refuses_a_name_hdf5_cannot_have(tmp_path):
    weights = {"a": [np.zeros(1)]}
    for names in (["."], [""], ["/data"], ["a/./b"], ["a", "a/0"], ["a/0", "a"], ["x\0y"]):
        with pytest.raises(WeightsError, match="cannot be written as HDF5 under its name"):
            binary.write_weights_hdf5(tmp_path / "w.h5", net_of(*names), weights)
    assert list(tmp_path.iterdir()) == []


def test_solver_state_of_caffe_is_read_and_written_back(tmp_path):
    state = binary.read_solver_state(STATE)
    assert (state.iter, state.current_step) == (6, 0)
    assert state.learned_net == "sgd_hdf5_snapshot_iter_6.caffemodel.h5"
    shapes = [(4, 1, 3, 3), (4,), (64, 64), (64,), (64,), (4, 64), (4,)]
    assert [h.shape for h in state.history] == shapes
    binary.write_solver_state(tmp_path / "copy.h5", state)
    assert layout(tmp_path / "copy.h5") == layout(STATE)


def test_history_is_in_numeric_order(tmp_path):
    history = [np.full((1,), i, "f4") for i in range(12)]
    binary.write_solver_state(tmp_path / "s.h5", binary.SolverState(1, "", history, 0))
    read = binary.read_solver_state(tmp_path / "s.h5").history
    assert [h.item() for h in read] == list(range(12))


@pytest.mark.parametrize("dtype", ["f2", "f8", ">f4"])
def test_other_floats_become_float32(tmp_path, dtype):
    def build(file):
        file.create_dataset("data/a/0", data=np.array([1, 2.5], dtype), compression="gzip")

    (layer,) = binary.read_weights(made(tmp_path / "w.h5", build))
    assert layer.blobs[0].dtype == np.float32
    assert layer.blobs[0].tolist() == [1, 2.5]


def test_file_that_the_script_has_not_closed_is_not_called_damaged(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.create_group("data")
        with pytest.raises(ParseError, match="is still open in this program: close it first"):
            binary.read_weights(tmp_path / "w.h5")


def test_truncated_file_is_one_clear_error(tmp_path):
    whole = WEIGHTS.read_bytes()
    for end in range(8, len(whole), 997):
        path = tmp_path / "w.h5"
        path.write_bytes(whole[:end])
        with pytest.raises(ParseError, match="is a damaged HDF5 file"):
            binary.read_weights(path)


@pytest.mark.parametrize(
    ("name", "build", "message"),
    [
        ("no data", lambda f: f.create_group("model_weights"), "has no 'data'. Received: model_w"),
        ("nothing", lambda f: None, "has no 'data'. Received: nothing"),
        ("training data", lambda f: f.create_dataset("data", data=[1.0]), "'data' is not a group"),
        (
            "external",
            lambda f: f.create_group("data").__setitem__("a", h5py.ExternalLink("o.h5", "/data/a")),
            "'a' is a link",
        ),
        (
            "external root",
            lambda f: f.__setitem__("data", h5py.ExternalLink("o.h5", "/data")),
            "'data' is a link",
        ),
        (
            "external blob",
            lambda f: f.create_group("data/a").__setitem__("0", h5py.ExternalLink("o.h5", "/x")),
            "'0' is a link",
        ),
        (
            "soft",
            lambda f: f.create_group("data").__setitem__("a", h5py.SoftLink("/data")),
            "'a' is a link",
        ),
        (
            "outside",
            lambda f: f.create_dataset("data/a/0", (4,), "f4", external=[("/etc/hostname", 0, 16)]),
            "stores its values in another file",
        ),
        ("integers", lambda f: f.create_dataset("data/a/0", data=[1, 2]), "wrong type: int64"),
        (
            "name",
            lambda f: f.create_dataset("data/a/w", data=[1.0]),
            "'a/w' was found instead of blobs",
        ),
        (
            "index",
            lambda f: f.create_dataset("data/a/99999", data=[1.0]),
            "was found instead of blobs",
        ),
        ("unwritten", lambda f: f.create_dataset("data/a/0", (10**12,), "f4"), "has no values"),
        ("null", lambda f: f.create_dataset("data/a/0", dtype="f4"), "is not a dataset"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) and len(value) < 15 else "",
)
def test_read_weights_refuses(tmp_path, name, build, message):
    made(tmp_path / "o.h5", lambda f: f.create_dataset("data/a/0", data=[1.0]))
    with pytest.raises(ParseError) as error:
        binary.read_weights(made(tmp_path / "w.h5", build))
    assert message in str(error.value)


def test_virtual_dataset_is_refused(tmp_path):
    made(tmp_path / "o.h5", lambda f: f.create_dataset("x", data=np.ones(3, "f4")))

    def build(file):
        virtual = h5py.VirtualLayout((3,), "f4")
        virtual[:] = h5py.VirtualSource(str(tmp_path / "o.h5"), "x", (3,))
        file.create_virtual_dataset("data/a/0", virtual)

    with pytest.raises(ParseError, match="stores its values in another file"):
        binary.read_weights(made(tmp_path / "w.h5", build))


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    def build(file):
        blob = file.create_dataset("data/a/0", (4 << 30,), "f4", chunks=(1 << 20,), compression=9)
        blob[:1] = 1  # the other chunks are never written, but would be read as 16 GiB of zeros

    with pytest.raises(ParseError, match=r"'a/0' of shape \(4294967296,\): .* may grow to"):
        binary.read_weights(made(tmp_path / "w.h5", build))


def test_groups_that_hold_themselves_are_refused(tmp_path):
    def build(file):
        group = file.create_group("data/a")
        group["a"] = group
        group["b"] = group

    with pytest.raises(ParseError, match="nested more than 100 deep|more than 100000 groups"):
        binary.read_weights(made(tmp_path / "w.h5", build))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("iter", np.array([-1], "i4"), "'iter' is -1"),
        ("iter", np.array([1, 2], "i4"), "'iter' is not a single number"),
        ("iter", np.array([1.5]), "wrong type: float64"),
        ("current_step", None, "has no 'current_step'"),
        ("learned_net", np.array([b"a", b"b"]), "'learned_net' is not a string"),
        ("learned_net", np.float32(1), "'learned_net' holds values of the wrong type: float32"),
        ("history/3", None, "its history has gaps"),
    ],
)
def test_read_solver_state_refuses(tmp_path, name, value, message):
    path = tmp_path / "s.h5"
    shutil.copy(STATE, path)
    with h5py.File(path, "r+") as file:
        del file[name]
        if value is not None:
            file[name] = value
    with pytest.raises(ParseError) as error:
        binary.read_solver_state(path)
    assert message in str(error.value)


def test_learned_net_may_be_text_of_h5py(tmp_path):
    path = tmp_path / "s.h5"
    shutil.copy(STATE, path)
    with h5py.File(path, "r+") as file:
        del file["learned_net"]
        file["learned_net"] = "é.h5"
    assert binary.read_solver_state(path).learned_net == "é.h5"

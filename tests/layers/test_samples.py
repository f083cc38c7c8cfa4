"""The sample of each layer type's docstring is a layer that builds, runs and has those shapes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import lmdb
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from caffe_kd.layers import layer_types
from caffe_kd.layers.data.memory_data import MemoryData
from caffe_kd.layers.docstring import Docstring, by_folder, docstring_of
from caffe_kd.net import Net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from tests.helpers import make_net

OURS = sorted(
    name for name, kind in layer_types().items() if kind.__module__.startswith("caffe_kd.")
)
SHAPES = re.compile(r'(bottom|top): "(\S+)"  # (?:(scalar)|\(([\dK, ]+)\))$', re.MULTILINE)
BLOBS = re.compile(r"(?:bottom|top): ")


def write_lmdb(path: Path) -> None:
    with lmdb.open(str(path), map_size=2**20) as environment, environment.begin(write=True) as txn:
        for index in range(4):
            datum = pb.Datum(channels=1, height=28, width=28, label=index, data=bytes(784))
            txn.put(f"{index:08}".encode(), datum.SerializeToString())


def write_images(path: Path) -> None:
    lines = []
    for index in range(4):
        image = np.full((40, 48, 3), 60 * index, np.uint8)
        cv2.imwrite(str(path.parent / f"{index}.png"), image)
        lines.append(f"{index}.png {index}\n")
    path.write_text("".join(lines))


def write_windows(path: Path) -> None:
    cv2.imwrite(str(path.parent / "0.png"), np.full((60, 80, 3), 60, np.uint8))
    path.write_text("# 0\n0.png\n3\n60\n80\n2\n2 0.9 5 5 50 50\n0 0.1 0 0 30 30\n")


def write_hdf5(path: Path) -> None:
    with h5py.File(path.parent / "train.h5", "w") as file:
        file["data"] = np.ones((6, 10), np.float32)
        file["label"] = np.arange(6, dtype=np.float32)
    path.write_text("train.h5\n")


def write_matrix(path: Path) -> None:
    shape = pb.BlobShape(dim=[1, 1, 3, 3])
    path.write_bytes(pb.BlobProto(shape=shape, data=np.eye(3).flatten()).SerializeToString())


def write_model(path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((192, 10), np.float32), "weight")
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "teacher",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


def write_module(path: Path) -> None:
    path.write_text(
        "import caffe\n"
        "class Double(caffe.Layer):\n"
        "    def setup(self, bottom, top): pass\n"
        "    def reshape(self, bottom, top): top[0].reshape(*bottom[0].shape)\n"
        "    def forward(self, bottom, top): top[0].data[...] = 2 * bottom[0].data\n"
        "    def backward(self, top, propagate_down, bottom): pass\n"
    )


# The files that samples name.
FILES: dict[str, Callable[[Path], None]] = {
    "train_lmdb": write_lmdb,
    "train.txt": write_images,
    "windows.txt": write_windows,
    "train_h5_list.txt": write_hdf5,
    "infogain.binaryproto": write_matrix,
    "teacher.onnx": write_model,
    "my_layers": lambda path: write_module(path.with_suffix(".py")),
}


def shapes_of(sample: str, which: str) -> dict[str, tuple[int | None, ...]]:
    """Return the shapes that comments give a sample's bottoms or tops; None where any size is."""
    return {
        name: tuple(int(d) if d.isdigit() else None for d in re.findall(r"\w+", sizes))
        for kind, name, _, sizes in SHAPES.findall(sample)
        if kind == which
    }


def net_of(sample: str) -> Net:
    """Build a net of a sample and of an Input for each of its bottoms."""
    inputs = ""
    for index, (name, shape) in enumerate(shapes_of(sample, "bottom").items()):
        dims = " ".join(f"dim: {size}" for size in shape)
        inputs += (
            f'layer {{ name: "in{index}" type: "Input" top: "{name}" '
            f"input_param {{ shape {{ {dims} }} }} }}\n"
        )
    return make_net(inputs + sample, pb.TRAIN)


@pytest.mark.parametrize("name", OURS)
def test_docstring_has_a_sample_of_the_type(name: str) -> None:
    sample = docstring_of(layer_types()[name]).sample
    layers = text.parse(sample, pb.NetParameter(), f"sample of {name}").layer
    assert [layer.type for layer in layers] == [name]
    assert 4 <= len(sample.splitlines()) <= 8
    assert len(SHAPES.findall(sample)) == len(BLOBS.findall(sample)), "a blob has no shape"


@pytest.mark.parametrize("name", OURS)
def test_sample_runs_and_its_blobs_have_the_shapes_it_gives(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = docstring_of(layer_types()[name]).sample
    monkeypatch.chdir(tmp_path)
    for file in re.findall(r'(?:source|model|module): "(.*?)"', sample):
        FILES[file](tmp_path / file)
    torch.manual_seed(0)
    net = net_of(sample)
    layer = net.nodes[-1].layer
    if isinstance(layer, MemoryData):
        layer.set(np.ones((2, 3, 8, 8), np.float32), np.zeros(2, np.float32))
    net({blob: torch.rand(shape) for blob, shape in shapes_of(sample, "bottom").items()})
    for blob, shape in shapes_of(sample, "top").items():
        top = net.blobs[blob]
        assert len(top.shape) == len(shape), blob
        assert all(want in (None, size) for want, size in zip(shape, top.shape, strict=True)), blob
        assert top.isfinite().all(), blob


def test_types_are_grouped_by_folder_in_the_order_of_caffes_catalogue() -> None:
    groups = by_folder(layer_types()[name] for name in OURS)
    titles = [title.partition(":")[0].partition(" ")[0] for title in groups]
    assert titles[:4] == ["Data", "Vision", "Recurrent", "Common"]
    assert titles[4:8] == ["Normalization", "Activation", "Utility", "Loss"]
    assert titles[8:] == ["Distillation", "Detection"]
    assert sorted(kind.type for kinds in groups.values() for kind in kinds) == OURS


def test_parts_of_a_docstring_are_separated() -> None:
    parts = docstring_of(layer_types()["Tile"])
    assert parts.summary == "Put ``tiles`` copies of the bottom one after another along ``axis``."
    assert parts.text.startswith("Bottom: any shape.")
    assert parts.text.endswith("Source: Caffe's TileLayer.")
    assert parts.sample.splitlines()[0] == "layer {"
    assert parts.sample.endswith("}")


def test_class_without_a_docstring_has_no_parts_of_its_base() -> None:
    class Bare(layer_types()["Tile"]):  # type: ignore[misc]
        pass

    assert docstring_of(Bare) == Docstring("", "", "")

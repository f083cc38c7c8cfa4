"""The graph that layers write into: names, order, aliases and layers spliced in by torch.onnx."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from caffe_kd.core.errors import ExportError
from caffe_kd.export.graph import OPSET, Graph
from caffe_kd.layers import Context, Layer
from caffe_kd.proto import caffe_pb2 as pb

FLOAT = onnx.TensorProto.FLOAT


class Affine(Layer):
    """A user's layer without an ``onnx`` method: y = |x| flattened times w, plus b."""

    type = "Affine"

    def setup(self, bottom_shapes):
        self.add_blob((4, 3))
        self.add_blob((3,))
        for blob in self.blobs:
            torch.nn.init.normal_(blob)

    def forward(self, x):
        weight, bias = self.blobs
        return x.abs().flatten(1) @ weight + bias, x.flatten(1)


class Untraceable(Layer):
    type = "Untraceable"

    def forward(self, x):
        return torch.linalg.eigvals(x)


def make(cls, name="user"):
    layer = cls(pb.LayerParameter(name=name, type=cls.type), pb.TEST, Context())
    layer.setup([(2, 2, 2)])
    return layer


def run(graph, inputs, outputs, values):
    proto = graph.finish(
        "g",
        {n: (FLOAT, dims) for n, dims in inputs.items()},
        outputs,
        {},
    )
    model = onnx.helper.make_model(
        proto, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=8
    )
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return proto, session.run(list(outputs), values)


def test_node_name_is_the_layers_or_begins_with_it():
    graph = Graph(["x", "y", "z"])
    graph.begin("one")
    graph.node("Relu", ["x"], ["y"])
    graph.begin("two")
    middle = graph.temporary("middle")
    graph.node("Abs", ["y"], [middle])
    graph.node("Neg", [middle], ["z"])
    proto, _ = run(graph, {"x": ["batch"]}, {"z": ["batch"]}, {"x": np.ones(2, np.float32)})
    assert [n.name for n in proto.node] == ["one", "two/Abs", "two/Neg"]
    assert middle == "two/middle"


def test_names_that_collide_are_made_unique():
    graph = Graph(["x", "conv.0", "conv/t", "y"])
    graph.begin("conv")
    layer = make(Affine, "conv")
    assert graph.blob(layer, 0) == "conv.0_2"
    assert graph.temporary("t") == "conv/t_2"
    assert graph.constant(1.0, "t") == "conv/t_3"
    graph.node("Relu", ["x"], ["y"])
    graph.begin("conv")  # another layer of the same name
    graph.node("Relu", ["y"], ["conv/t"])
    proto, _ = run(graph, {"x": [1]}, {"conv/t": [1]}, {"x": np.ones(1, np.float32)})
    assert [n.name for n in proto.node] == ["conv", "conv_2"]


def test_blobs_stand_in_caffes_order_whatever_the_order_of_use():
    graph = Graph([])
    first, second = make(Affine, "first"), make(Affine, "second")
    graph.begin("first")
    graph.constant([1, 2], "early")
    graph.blob(first, 1)
    graph.blob(first, 0)
    graph.begin("second")
    graph.blob(second, 0)
    proto = graph.finish("g", {}, {}, {})
    names = [t.name for t in proto.initializer]
    assert names == ["first.0", "first.1", "first/early", "second.0"]
    values = onnx.numpy_helper.to_array(proto.initializer[0])
    assert np.array_equal(values, first.blobs[0].detach().numpy())


def test_blob_shared_between_layers_is_there_once():
    graph = Graph([])
    owner, sharer = make(Affine, "owner"), make(Affine, "sharer")
    sharer.share_blob(0, owner.parameters_in_order[0])
    graph.begin("owner")
    assert graph.blob(owner, 0) == "owner.0"
    graph.begin("sharer")
    assert graph.blob(sharer, 0) == "owner.0"
    assert graph.blob(sharer, 1) == "sharer.1"
    assert len(graph.finish("g", {}, {}, {}).initializer) == 2


@pytest.mark.parametrize(
    ("value", "kind"),
    [(3, np.int64), ([0, -1], np.int64), (0.5, np.float32), (np.ones(2), np.float32)],
)
def test_constant_is_int64_or_float32(value, kind):
    graph = Graph([])
    graph.begin("l")
    name = graph.constant(value, "c")
    (tensor,) = graph.finish("g", {}, {}, {}).initializer
    array = onnx.numpy_helper.to_array(tensor)
    assert (tensor.name, array.dtype) == (name, kind)
    assert np.array_equal(array, value)


def test_alias_in_place_leaves_the_blobs_name_to_the_value():
    graph = Graph(["x", "y"])
    graph.begin("relu")
    graph.node("Relu", ["x"], [graph.unique("y/relu")])
    graph.begin("drop")
    graph.alias("y/relu", "y")
    values = {"x": np.array([-1, 2], np.float32)}
    proto, (y,) = run(graph, {"x": ["batch"]}, {"y": ["batch"]}, values)
    assert [(n.op_type, list(n.output)) for n in proto.node] == [("Relu", ["y"])]
    assert list(y) == [0, 2]


def test_alias_of_an_input_and_of_two_outputs_is_copied():
    graph = Graph(["x", "a", "b"])
    graph.begin("split")
    graph.alias("x", "a")
    graph.alias("x", "b")
    outputs = {"a": ["batch"], "b": ["batch"]}
    proto, (a, b) = run(graph, {"x": ["batch"]}, outputs, {"x": np.ones(3, np.float32)})
    assert [n.op_type for n in proto.node] == ["Identity", "Identity"]
    assert list(a) == list(b) == [1, 1, 1]


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_splice_torch_gives_the_layers_output(batch):
    torch.manual_seed(0)
    layer = make(Affine)
    graph = Graph(["x", "y", "flat"])
    graph.define("x", (2, 2, 2))
    graph.begin("user")
    layer.onnx(graph, ["x"], ["y", "flat"])
    x = torch.randn(batch, 2, 2)
    outputs = {"y": ["batch", 3], "flat": ["batch", 4]}
    proto, (y, flat) = run(graph, {"x": ["batch", 2, 2]}, outputs, {"x": x.numpy()})
    wanted, wanted_flat = layer(x)
    np.testing.assert_allclose(y, wanted.detach(), rtol=1e-5, atol=1e-6)  # float32 sums of 4
    assert np.array_equal(flat, wanted_flat)
    assert [t.name for t in proto.initializer][:2] == ["user.0", "user.1"]
    inner = {name for node in proto.node for name in node.output} - {"y", "flat"}
    assert all(name.startswith("user/") for name in inner)
    assert all(node.name.startswith("user/") for node in proto.node)


def test_splice_torch_of_two_layers_keeps_their_names_apart():
    graph = Graph(["x", "y", "f", "z", "g"])
    graph.define("x", (2, 2, 2))
    for name, tops in (("a", ["y", "f"]), ("b", ["z", "g"])):
        graph.begin(name)
        graph.splice_torch(make(Affine, name), ["x"], tops)
    outputs = {name: ["batch", None] for name in ("y", "f", "z", "g")}
    proto, _ = run(graph, {"x": ["batch", 2, 2]}, outputs, {"x": np.ones((3, 2, 2), np.float32)})
    assert {"a.0", "a.1", "b.0", "b.1"} <= {t.name for t in proto.initializer}


def test_splice_torch_leaves_the_layers_blobs_alone():
    layer = make(Affine)
    blobs = list(layer.parameters_in_order)
    graph = Graph(["x", "y", "flat"])
    graph.define("x", (2, 2, 2))
    graph.begin("user")
    graph.splice_torch(layer, ["x"], ["y", "flat"])
    assert all(a is b for a, b in zip(layer.parameters_in_order, blobs, strict=True))


def test_splice_torch_says_which_layer_cannot_be_exported():
    graph = Graph(["x", "y"])
    graph.define("x", (2, 2, 2))
    graph.begin("odd")
    with pytest.raises(ExportError, match=r"layer 'odd' \(Untraceable\).*method 'onnx"):
        graph.splice_torch(make(Untraceable, "odd"), ["x"], ["y"])

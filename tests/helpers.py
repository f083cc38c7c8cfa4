"""What the tests of nets and layers share."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from caffe_kd.layers import Layer
from caffe_kd.net import Net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text

GOLDEN_LAYERS = Path(__file__).parent / "golden" / "layers"

# The recordings' own bounds: float32 sums of some hundred terms, added in another order.
GOLDEN_RTOL = 1e-4
GOLDEN_ATOL = 2e-5


def make_net(prototxt: str, phase: int = pb.TEST, name: str = "net.prototxt") -> Net:
    """Build a net from prototxt text; ``name`` stands for its file in messages."""
    return Net(text.parse(prototxt, pb.NetParameter(), name), phase)


def inputs_text(*shapes: tuple[int, ...]) -> str:
    """Return an Input layer for each shape, whose tops are x0, x1, …."""
    layers = ""
    for index, shape in enumerate(shapes):
        dims = " ".join(f"dim: {length}" for length in shape)
        layers += (
            f'layer {{ name: "in{index}" type: "Input" top: "x{index}" '
            f"input_param {{ shape {{ {dims} }} }} }}\n"
        )
    return layers


def layer_net(body: str, *shapes: tuple[int, ...], tops: int = 1, phase: int = pb.TRAIN) -> Net:
    """Build a net of one layer "L": ``body`` is its type and parameters.

    Its bottoms are Inputs of the given shapes, x0, x1, …; its tops are y0, y1, ….
    """
    names = "".join(f' bottom: "x{i}"' for i in range(len(shapes)))
    names += "".join(f' top: "y{i}"' for i in range(tops))
    return make_net(inputs_text(*shapes) + f'layer {{ name: "L"{names} {body} }}', phase)


def make_layer(body: str, *shapes: tuple[int, ...], tops: int = 1, phase: int = pb.TRAIN) -> Layer:
    """Build one layer as `layer_net` does, and return it."""
    return layer_net(body, *shapes, tops=tops, phase=phase).nodes[-1].layer


def run(layer: Layer, *bottoms: Tensor) -> list[Tensor]:
    """Run a layer, compare its rule of top shapes with the tops, and return them."""
    tops = layer(*bottoms)
    tops = [tops] if isinstance(tops, Tensor) else list(tops)
    shapes = layer.top_shapes([tuple(b.shape) for b in bottoms])
    assert [tuple(t.shape) for t in tops] == [tuple(s) for s in shapes]
    return tops


def assert_close(got: Any, want: Any, what: str = "") -> None:
    """Compare with a recorded value under the bounds of the recordings."""
    got = np.asarray(got.detach() if isinstance(got, Tensor) else got, np.float64)
    want = np.asarray(want, np.float64)
    assert got.shape == want.shape or got.size == want.size == 1, what
    greatest = float(np.abs(want).max()) if want.size else 0.0
    off = float(np.abs(got - want).max()) if want.size else 0.0
    bound = GOLDEN_ATOL * max(1.0, greatest) + GOLDEN_RTOL * greatest
    assert off <= bound, f"{what} is off by {off}, at most {bound} is right"


def golden_case(name: str) -> None:
    """Compare a net with what BVLC Caffe computed: tops, blobs afterwards, gradients."""
    net = Net(text.read(GOLDEN_LAYERS / f"{name}.prototxt", pb.NetParameter()))
    data = np.load(GOLDEN_LAYERS / f"{name}.npz")
    for key in _keys(data, "param"):
        with torch.no_grad():
            _blob(net, key).copy_(torch.from_numpy(data[key]))
    inputs = {k.split("/", 1)[1]: torch.from_numpy(data[k]) for k in _keys(data, "in")}
    for value in inputs.values():
        value.requires_grad_()
    objective = net.forward(inputs)
    for top in net.shapes:
        assert tuple(net.blobs[top].shape) == tuple(net.shapes[top]), top
    for key in _keys(data, "out"):
        assert_close(net.blobs[key.split("/", 1)[1]], data[key], key)
    for key in _keys(data, "after"):
        assert_close(_blob(net, key), data[key], key)
    wanted = _keys(data, "din") + _keys(data, "dparam")
    if not wanted:
        return
    heads = {k.split("/", 1)[1]: torch.from_numpy(data[k]) for k in _keys(data, "topdiff")}
    outputs = [net.blobs[top] for top in heads] if heads else [objective]
    sources = [_source(net, inputs, key) for key in wanted]
    given = list(heads.values()) or None
    grads = torch.autograd.grad(outputs, sources, given, allow_unused=True)
    for key, source, grad in zip(wanted, sources, grads, strict=True):
        assert_close(torch.zeros_like(source) if grad is None else grad, data[key], key)


def _keys(data: Any, kind: str) -> list[str]:
    return [key for key in data.files if key.startswith(f"{kind}/")]


def _blob(net: Net, key: str) -> Tensor:
    _, layer, index = key.rsplit("/", 2)
    node = net.node_of(layer)
    assert node is not None
    return node.layer.blobs[int(index)]


def _source(net: Net, inputs: dict[str, Tensor], key: str) -> Tensor:
    if not key.startswith("din/"):
        return _blob(net, key)
    name = key.split("/", 1)[1]
    return inputs[name] if name in inputs else net.blobs[name]


def gradcheck(layer: Layer, *bottoms: Tensor) -> None:
    """Hold a layer's gradient, to bottoms and blobs, against finite differences in float64.

    A layer that draws random numbers draws the same ones each time.
    """
    layer.double()
    leaves = [b.detach().double().requires_grad_() for b in bottoms]
    blobs = [b for b in layer.parameters_in_order if b.requires_grad]

    def forward(*values: Tensor) -> Any:  # the blobs are perturbed in place
        torch.manual_seed(0)
        tops = layer(*values[: len(leaves)])
        return tops if isinstance(tops, Tensor) else tuple(tops)

    assert torch.autograd.gradcheck(forward, (*leaves, *blobs))


def hide_kernels(monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
    """Take torch's private kernels away, or let each raise an error instead."""

    def refuse(*_: object, **__: object) -> None:
        assert error is not None
        raise error

    for name in dir(torch):
        if name.startswith(("_foreach_", "_fused_")):
            if error is None:
                monkeypatch.delattr(torch, name)
            else:
                monkeypatch.setattr(torch, name, refuse)


def check_onnx(net: Net) -> None:
    """Export a net of phase TEST and hold it against ONNX Runtime at several batch sizes."""
    from caffe_kd.export.check import check
    from caffe_kd.export.onnx import to_onnx

    with tempfile.TemporaryDirectory() as folder:
        model = to_onnx(net, Path(folder) / "net.onnx")
    assert check(net, model).samples > 0


def check_state_goes_on(whole, later, batches, done: int, file: Path) -> None:
    """Assert that a layer restored after some batches goes on as one that was not interrupted."""
    for batch in batches[:done]:
        whole(*batch)
    np.savez(file, **whole.state())
    for batch in batches[::-1]:  # what it knows is forgotten
        later(*batch)
    with np.load(file, allow_pickle=False) as arrays:
        later.restore(dict(arrays))
    for batch in batches[done:]:
        assert torch.equal(whole(*batch), later(*batch))

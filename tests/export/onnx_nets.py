"""Nets with random blobs, and their outputs in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import torch

from caffe_kd.export.check import index_counts
from caffe_kd.export.onnx import output_names
from caffe_kd.net import Net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text

# Float32 sums in another order; the layers here add at most some hundred terms.
RTOL, ATOL = 1e-5, 1e-5


def net_of(layers, shapes):
    """Build a net of phase TEST with random blobs."""
    inputs = "".join(
        f'layer {{ name: "in_{name}" type: "Input" top: "{name}" input_param {{ shape {{ '
        + " ".join(f"dim: {dim}" for dim in shape)
        + " } } }\n"
        for name, shape in shapes.items()
    )
    net = Net(text.parse('name: "n"' + inputs + layers, pb.NetParameter()), pb.TEST)
    generator = torch.Generator().manual_seed(0)
    for node in net.nodes:
        for blob in node.layer.parameters_in_order:
            values = torch.rand(blob.shape, generator=generator)
            # BatchNorm's blobs are sums of positive terms, or means; any other blob has both signs.
            is_normal = node.layer.type in ("BatchNorm", "BN")
            blob.data = values + 0.5 if is_normal else values - 0.5
    return net


def one(type_name, options, shapes):
    """Build a net of one layer "L"."""
    bottoms = " ".join(f'bottom: "{name}"' for name in shapes)
    layer = f'layer {{ name: "L" type: "{type_name}" {bottoms} top: "y" {options} }}'
    return net_of(layer, shapes)


def random_inputs(net, batch):
    generator = np.random.default_rng(batch)
    counts = index_counts(net)
    values = {}
    for name in net.inputs:
        shape = (batch, *net.shapes[name][1:])
        if name in counts:
            values[name] = generator.integers(0, counts[name], shape).astype(np.float32)
        else:
            values[name] = generator.standard_normal(shape, dtype=np.float32)
    return values


def run(model, inputs):
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def assert_agree(net, model, batches=(1, 3)):
    """Compare the model with the net at each batch; return the outputs' names."""
    for batch in batches:
        inputs = random_inputs(net, batch)
        results = run(model, inputs)
        for node in net.nodes:
            node.layer.reset()  # as every run of the model begins
        with torch.no_grad():
            net({name: torch.from_numpy(value) for name, value in inputs.items()})
        for blob, result in zip(output_names(net), results.values(), strict=True):
            wanted = net.blobs[blob].numpy()
            assert result.shape == wanted.shape
            np.testing.assert_allclose(result, wanted, rtol=RTOL, atol=ATOL)
    return list(results)

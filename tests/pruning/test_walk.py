"""What is cut equals what is masked, for each kind of layer that channels pass."""

from __future__ import annotations

import numpy as np
import pytest

from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.proto.binary import write_weights
from caffe_kd.pruning.prune import Pruned, PruneOptions, prune

from .nets import READING, as_layers, conv, ip, logits, one, random_weights, whole

RELU = one("ReLU", "relu", "c1", tops=("c1",))
GLOBAL_AVE = "pooling_param { pool: AVE global_pooling: true }"
DOWN = "pooling_param { pool: MAX kernel_size: 2 stride: 2 }"


def norm(name: str, blob: str, bias: str = "true") -> str:
    return one("BatchNorm", f"{name}_bn", blob, tops=(blob,)) + one(
        "Scale", f"{name}_scale", blob, tops=(blob,), extra=f"scale_param {{ bias_term: {bias} }}"
    )


# The net, and the layers that lose half of their channels.
NETS = {
    "plain": (conv("c1", "data", 8) + RELU + conv("c2", "c1", 6) + ip("out", "c2"), "c1 c2"),
    "pooled": (
        conv("c1", "data", 8) + one("Pooling", "p", "c1", extra=DOWN) + ip("out", "p"),
        "c1",
    ),
    "inner products": (ip("h1", "data", 8) + ip("h2", "h1", 6) + ip("out", "h2"), "h1 h2"),
    "transposed": (
        conv("c1", "data", 8)
        + ip("h", "c1", 6, "transpose: true")
        + ip("out", "h", 5, "transpose: true"),
        "c1 h",
    ),
    "flattened": (
        conv("c1", "data", 8)
        + one("Flatten", "f", "c1")
        + RELU.replace("c1", "f")
        + ip("out", "f"),
        "c1",
    ),
    "normalised": (
        conv("c1", "data", 8) + norm("c1", "c1") + RELU + conv("c2", "c1", 4) + ip("out", "c2"),
        "c1 c2",
    ),
    "BN of forks": (
        conv("c1", "data", 8)
        + one("BN", "bn", "c1", extra="bn_param { slope_filler { value: 1 } }")
        + ip("out", "bn"),
        "c1",
    ),
    "prelu and bias": (
        conv("c1", "data", 8)
        + one("PReLU", "pr", "c1")
        + one("Bias", "b", "pr")
        + one("PReLU", "pr2", "b", extra="prelu_param { channel_shared: true }")
        + ip("out", "pr2"),
        "c1",
    ),
    "residual": (
        conv("c1", "data", 8)
        + norm("c1", "c1")
        + conv("c2", "c1", 8)
        + norm("c2", "c2")
        + one("Eltwise", "sum", "c1", "c2")
        + conv("c3", "sum", 12, "kernel_size: 3 pad: 1 stride: 2")
        + conv("side", "sum", 12, "kernel_size: 1 stride: 2 bias_term: false")
        + norm("side", "side")
        + one("Eltwise", "sum2", "c3", "side", extra="eltwise_param { coeff: 1 coeff: -0.5 }")
        + one("Pooling", "p", "sum2", extra=GLOBAL_AVE)
        + ip("out", "p"),
        "c1 c2 c3 side",
    ),
    "product and maximum": (
        conv("a", "data", 8)
        + conv("b", "data", 8)
        + conv("c", "data", 8)
        + one("Eltwise", "ab", "a", "b", extra="eltwise_param { operation: PROD }")
        + one("Eltwise", "abc", "ab", "c", extra="eltwise_param { operation: MAX }")
        + ip("out", "abc"),
        "a b c",
    ),
    "concat": (
        conv("a", "data", 8)
        + conv("b", "data", 6)
        + one("Concat", "ab", "a", "b", extra="concat_param { axis: 1 }")
        + norm("ab", "ab")
        + conv("c", "ab", 4)
        + ip("out", "c"),
        "a b c",
    ),
    "concat of rows": (
        conv("a", "data", 8)
        + conv("b", "data", 8)
        + one("Concat", "ab", "a", "b", extra="concat_param { axis: 2 }")
        + ip("out", "ab"),
        "a b",
    ),
    "slice": (
        conv("c1", "data", 8)
        + one("Slice", "s", "c1", tops=("l", "r"), extra="slice_param { slice_point: 3 }")
        + conv("left", "l", 6)
        + conv("right", "r", 6)
        + one("Eltwise", "sum", "left", "right")
        + ip("out", "sum"),
        "c1 left right",
    ),
    "equal slices": (
        conv("c1", "data", 9)
        + one("Slice", "s", "c1", tops=("l", "m", "r"))
        + conv("left", "l", 6)
        + conv("right", "r", 6)
        + one("Concat", "all", "left", "m", "right")
        + ip("out", "all"),
        "c1 left right",
    ),
    "slice of rows": (
        conv("c1", "data", 8)
        + one("Slice", "s", "c1", tops=("l", "r"), extra="slice_param { axis: 2 }")
        + one("Eltwise", "sum", "l", "r")
        + ip("out", "sum"),
        "c1",
    ),
    "depthwise": (
        conv("c1", "data", 8)
        + conv("dw", "c1", 8, "kernel_size: 3 group: 8")
        + norm("dw", "dw")
        + conv("pw", "dw", 6, "kernel_size: 1")
        + conv("dw2", "pw", 12, "kernel_size: 3 group: 6")
        + ip("out", "dw2"),
        "c1 pw",
    ),
    "depthwise of forks": (
        conv("c1", "data", 8)
        + one(
            "DepthwiseConvolution",
            "dw",
            "c1",
            extra="convolution_param { num_output: 16 kernel_size: 3 }",
        )
        + one("ConvolutionDepthwise", "dw2", "dw", extra="convolution_param { kernel_size: 3 }")
        + ip("out", "dw2"),
        "c1",
    ),
    "groups": (
        conv("c1", "data", 8)
        + conv("g", "c1", 12, "kernel_size: 3 group: 2")
        + one(
            "Deconvolution",
            "up",
            "g",
            extra="convolution_param { num_output: 8 group: 4 kernel_size: 2 stride: 2 }",
        )
        + one("ShuffleChannel", "sh", "up", extra="shuffle_channel_param { group: 2 }")
        + conv("g2", "sh", 8, "kernel_size: 1 group: 2")
        + ip("out", "g2"),
        "c1 g up g2",
    ),
    "deconvolution": (
        conv("c1", "data", 8, "kernel_size: 2 stride: 2")
        + one(
            "Deconvolution",
            "up",
            "c1",
            extra="convolution_param { num_output: 6 kernel_size: 2 stride: 2 }",
        )
        + one(
            "Deconvolution",
            "up2",
            "up",
            extra="convolution_param { num_output: 6 group: 6 kernel_size: 2 stride: 2 }",
        )
        + conv("c2", "up2", 4)
        + ip("out", "c2"),
        "c1 up c2",
    ),
    "reshape to rows": (
        conv("c1", "data", 8)
        + one("Reshape", "rs", "c1", extra="reshape_param { shape { dim: 0 dim: -1 dim: 72 } }")
        + ip("out", "rs"),
        "c1",
    ),
    "reshape with counts": (
        conv("c1", "data", 8)
        + one("Reshape", "rs", "c1", extra="reshape_param { shape { dim: 0 dim: 1152 } }")
        + one(
            "Reshape",
            "back",
            "rs",
            extra="reshape_param { shape { dim: 0 dim: 8 dim: 12 dim: 12 } }",
        )
        + conv("c2", "back", 4)
        + ip("out", "c2"),
        "c1 c2",
    ),
    "reshape with the batch": (
        conv("c1", "data", 8)
        + one("Reshape", "rs", "c1", extra="reshape_param { shape { dim: 4 dim: -1 } }")
        + ip("out", "rs"),
        "c1",
    ),
    "permute": (
        conv("c1", "data", 8)
        + one(
            "Permute",
            "pm",
            "c1",
            extra="permute_param { order: 0 order: 2 order: 3 order: 1 }",
        )
        + one("Scale", "sc", "pm", extra="scale_param { axis: 3 bias_term: true }")
        + one("Flatten", "f", "sc")
        + ip("out", "f"),
        "c1",
    ),
    "elementwise": (
        conv("c1", "data", 8)
        + one("Sigmoid", "sg", "c1")
        + one("Exp", "ex", "sg")
        + one("Power", "pw", "ex", extra="power_param { shift: 2 scale: 0.5 power: 2 }")
        + one("TanH", "th", "pw")
        + one("Dropout", "dr", "th", tops=("th",), extra="include { phase: TEST }")
        + ip("out", "th"),
        "c1",
    ),
    "LRN within channels": (
        conv("c1", "data", 8)
        + one("LRN", "n", "c1", extra="lrn_param { norm_region: WITHIN_CHANNEL local_size: 3 }")
        + one("MVN", "m", "n")
        + ip("out", "m"),
        "c1",
    ),
    "shuffled": (
        conv("c1", "data", 12)
        + one("ShuffleChannel", "sh", "c1", extra="shuffle_channel_param { group: 3 }")
        + conv("dw", "sh", 12, "kernel_size: 3 group: 12")
        + ip("out", "dw"),
        "c1",
    ),
    "squeeze and excite": (
        conv("c1", "data", 8)
        + one("Pooling", "p", "c1", extra=GLOBAL_AVE)
        + conv("sq", "p", 4, "kernel_size: 1")
        + conv("ex", "sq", 8, "kernel_size: 1")
        + one("Flatten", "fl", "ex")
        + one("Scale", "se", "c1", "fl", extra="scale_param { axis: 0 }")
        + one("Axpy", "ax", "ex", "se", "c1")
        + ip("out", "ax"),
        "c1 sq ex",
    ),
    "unpooled": (
        conv("c1", "data", 8)
        + one("Pooling", "p", "c1", tops=("p", "mask"), extra=DOWN)
        + one("Upsample", "u", "p", "mask")
        + one("Crop", "cr", "u", "data", extra="crop_param { axis: 2 }")
        + ip("out", "cr"),
        "c1",
    ),
    "tiled": (
        ip("h", "data", 8)
        + one("Reshape", "rs", "h", extra="reshape_param { shape { dim: 0 dim: 0 dim: 1 } }")
        + one("Tile", "t", "rs", extra="tile_param { axis: 2 tiles: 3 }")
        + one("Tile", "t2", "t", extra="tile_param { axis: 1 tiles: 2 }")
        + ip("out", "t2"),
        "h",
    ),
    "several bottoms": (
        conv("a", "data", 8)
        + conv("b", "data", 8)
        + 'layer { name: "c" type: "Convolution" bottom: "a" bottom: "b" top: "ca" top: "cb" '
        "convolution_param { num_output: 6 kernel_size: 3 } }\n"
        + one("Eltwise", "sum", "ca", "cb")
        + ip("out", "sum"),
        "a b c",
    ),
    "axis 2": (
        one("Reshape", "rs", "data", extra="reshape_param { shape { dim: 0 dim: 12 dim: -1 } }")
        + ip("h", "rs", 8, "axis: 2")
        + ip("h2", "h", 6, "axis: 2")
        + ip("out", "h2"),
        "h h2",
    ),
}


def masked(pruned: Pruned, weights: dict[str, list[np.ndarray]], param) -> dict:
    """Return weights that are 0 wherever a removed channel is read."""
    types = {layer.name: layer.type for layer in param.layer}
    masked = {name: [blob.copy() for blob in blobs] for name, blobs in weights.items()}
    for key, use in pruned.channels.uses.items():
        if use.blob == 0 and types[use.layer] in READING and key not in pruned.channels.filters:
            blob = np.moveaxis(masked[use.layer][0], use.axis, 0)
            blob[pruned.removed[use.ids]] = 0
    return masked


@pytest.mark.parametrize("case", NETS)
@pytest.mark.parametrize("phase", [pb.TEST, pb.TRAIN])
def test_cut_net_is_the_masked_net(case, phase):
    body, layers = NETS[case]
    param = whole(body)
    weights = random_weights(param)
    pruned = prune(param, weights, PruneOptions(amount=0.5, iterations=0))
    cut = {row.layer for row in pruned.table.rows if row.kept and row.kept[0] < row.kept[1]}
    assert cut == set(layers.split())
    zeroed = as_layers(masked(pruned, {w.name: w.blobs for w in weights}, param))
    want = logits(param, zeroed, phase)
    got = logits(pruned.net, as_layers(pruned.weights), phase)
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.parametrize("case", NETS)
def test_cut_net_is_read_trained_and_exported(case, tmp_path):
    from caffe_kd.export.pipeline import export_onnx
    from caffe_kd.solver.plan import read_plan
    from caffe_kd.solver.run import RunOptions, train

    param = whole(NETS[case][0])
    pruned = prune(param, random_weights(param), PruneOptions(amount=0.5))
    net, weights, solver = (tmp_path / n for n in ("net.prototxt", "w.caffemodel", "s.prototxt"))
    text.write(net, pruned.net)
    write_weights(weights, pruned.net, pruned.weights)
    solver.write_text(
        f'net: "net.prototxt" weights: "{weights}" base_lr: 1e-6 lr_policy: "fixed" max_iter: 2 '
        f'snapshot_prefix: "{tmp_path / "s"}" solver_mode: CPU random_seed: 1 '
        "test_iter: 1 test_interval: 2"
    )
    trained = train(read_plan(solver), RunOptions(quiet=True))
    assert trained.iter == 2
    if case != "reshape with the batch":  # a deployed net has batch 1
        export_onnx(net, weights, tmp_path / "net.onnx")

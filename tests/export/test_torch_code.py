"""Nets written as PyTorch code, run where caffe_kd cannot be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from caffe_kd.cli.to_torch import main
from caffe_kd.errors import ExportError
from caffe_kd.export.pipeline import load_all_weights
from caffe_kd.export.torch_code import to_torch
from caffe_kd.export.torch_emitters import EMITTERS
from caffe_kd.layers import layer_types
from caffe_kd.net import Net, load_net
from tests.helpers import inputs_text, layer_net, make_net

MODELS = Path(__file__).parents[3] / "shared" / "models"
BOUND = 1e-5  # relative to the greatest value: the same float32 operators, some in another order

# Runs every module of a folder on its inputs.
RUN = """
import importlib, sys
from pathlib import Path
sys.modules["caffe_kd"] = None
sys.path.insert(0, sys.argv[1])
import numpy as np, torch
torch.manual_seed(0)
for path in sorted(Path(sys.argv[1]).glob("*.py")):
    bottoms = [torch.from_numpy(x) for x in np.load(path.with_suffix(".npz")).values()]
    with torch.no_grad():
        tops = importlib.import_module(path.stem).load()(*bottoms)
    tops = {"": tops} if isinstance(tops, torch.Tensor) else tops
    np.savez(path.with_suffix(".out.npz"), **{k or "only": v.numpy() for k, v in tops.items()})
"""

PLANE, FLAT = (2, 4, 7, 6), (3, 5)
CASES: dict[str, tuple[str, list[tuple[int, ...]], int]] = {
    "conv": (
        'type: "Convolution" convolution_param { num_output: 6 kernel_h: 3 kernel_w: 2 stride: 2 '
        "pad: 1 group: 2 }",
        [PLANE],
        1,
    ),
    "conv_dilated": (
        'type: "Convolution" convolution_param { num_output: 3 kernel_size: 2 dilation: 2 '
        "bias_term: false }",
        [PLANE, PLANE],
        2,
    ),
    "conv_1d": (
        'type: "Convolution" convolution_param { num_output: 3 kernel_size: 3 }',
        [(2, 4, 9)],
        1,
    ),
    "depthwise": ('type: "DepthwiseConvolution" convolution_param { kernel_size: 3 }', [PLANE], 1),
    "depthwise_2": (
        'type: "ConvolutionDepthwise" convolution_param { kernel_size: 3 }',
        [PLANE],
        1,
    ),
    "deconv": (
        'type: "Deconvolution" convolution_param { num_output: 6 kernel_size: 4 stride: 2 pad: 1 '
        "group: 2 }",
        [PLANE],
        1,
    ),
    "ip": ('type: "InnerProduct" inner_product_param { num_output: 3 }', [PLANE], 1),
    "ip_transposed": (
        'type: "InnerProduct" inner_product_param { num_output: 3 transpose: true axis: 2 '
        "bias_term: false }",
        [PLANE],
        1,
    ),
    "batch_norm": ('type: "BatchNorm" batch_norm_param { eps: 0.001 }', [PLANE], 1),
    "batch_norm_flat": ('type: "BatchNorm"', [FLAT], 1),
    "scale": ('type: "Scale" scale_param { bias_term: true }', [PLANE], 1),
    "scale_given": (
        'type: "Scale" scale_param { axis: 0 bias_term: true }',
        [PLANE, (2, 4)],
        1,
    ),
    "bias": ('type: "Bias"', [PLANE], 1),
    "bias_given": ('type: "Bias" bias_param { axis: 1 }', [PLANE, (4, 7)], 1),
    "prelu": ('type: "PReLU"', [PLANE], 1),
    "prelu_shared": ('type: "PReLU" prelu_param { channel_shared: true }', [PLANE], 1),
    "normalize": (
        'type: "Normalize" norm_param { across_spatial: false channel_shared: false }',
        [PLANE],
        1,
    ),
    "normalize_all": ('type: "Normalize"', [PLANE], 1),
    "max": ('type: "Pooling" pooling_param { kernel_size: 3 stride: 2 }', [PLANE], 1),
    "max_padded": ('type: "Pooling" pooling_param { kernel_size: 3 stride: 2 pad: 1 }', [PLANE], 1),
    "max_wide_pad": (
        'type: "Pooling" pooling_param { kernel_size: 3 stride: 2 pad: 2 }',
        [PLANE],
        1,
    ),
    "max_skipping": ('type: "Pooling" pooling_param { kernel_size: 1 stride: 2 }', [PLANE], 1),
    "max_floor": (
        'type: "Pooling" pooling_param { kernel_size: 3 stride: 2 round_mode: FLOOR }',
        [PLANE],
        1,
    ),
    "max_global": ('type: "Pooling" pooling_param { global_pooling: true }', [PLANE], 1),
    "ave": ('type: "Pooling" pooling_param { pool: AVE kernel_size: 3 stride: 2 }', [PLANE], 1),
    "ave_padded": (
        'type: "Pooling" pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }',
        [PLANE],
        1,
    ),
    "ave_wide_pad": (
        'type: "Pooling" pooling_param { pool: AVE kernel_h: 3 kernel_w: 5 stride: 2 pad: 2 }',
        [PLANE],
        1,
    ),
    "ave_global": ('type: "Pooling" pooling_param { pool: AVE global_pooling: true }', [PLANE], 1),
    "lrn": ('type: "LRN" lrn_param { local_size: 3 alpha: 0.5 k: 2 }', [PLANE], 1),
    "lrn_wider_than_channels": ('type: "LRN" lrn_param { local_size: 11 alpha: 2 }', [PLANE], 1),
    "lrn_within": (
        'type: "LRN" lrn_param { norm_region: WITHIN_CHANNEL local_size: 3 alpha: 2 }',
        [PLANE],
        1,
    ),
    "relu": ('type: "ReLU"', [PLANE], 1),
    "relu_leaky": ('type: "ReLU" relu_param { negative_slope: 0.1 }', [PLANE], 1),
    "relu6": ('type: "ReLU6"', [PLANE], 1),
    "sigmoid": ('type: "Sigmoid"', [FLAT], 1),
    "tanh": ('type: "TanH"', [FLAT], 1),
    "elu": ('type: "ELU" elu_param { alpha: 0.7 }', [FLAT], 1),
    "dropout": ('type: "Dropout" dropout_param { dropout_ratio: 0.4 }', [FLAT], 1),
    "softmax": ('type: "Softmax"', [PLANE], 1),
    "softmax_cooled": ('type: "Softmax" softmax_param { axis: -1 temperature: 4 }', [PLANE], 1),
    "flatten": ('type: "Flatten"', [PLANE], 1),
    "flatten_inner": ('type: "Flatten" flatten_param { axis: 1 end_axis: 2 }', [PLANE], 1),
    "sum": ('type: "Eltwise" eltwise_param { coeff: 1 coeff: -0.3 }', [FLAT, FLAT], 1),
    "product": ('type: "Eltwise" eltwise_param { operation: PROD }', [FLAT, FLAT, FLAT], 1),
    "greatest": ('type: "Eltwise" eltwise_param { operation: MAX }', [FLAT, FLAT, FLAT], 1),
    "concat": ('type: "Concat" concat_param { axis: 2 }', [PLANE, (2, 4, 1, 6)], 1),
    "slice": ('type: "Slice" slice_param { axis: 1 slice_point: 1 }', [PLANE], 2),
    "slice_one": ('type: "Slice"', [PLANE], 1),
    "split": ('type: "Split"', [FLAT], 2),
    "reshape": ('type: "Reshape" reshape_param { shape { dim: 0 dim: -1 dim: 3 } }', [PLANE], 1),
    "reshape_batch": ('type: "Reshape" reshape_param { shape { dim: -1 dim: 6 } }', [PLANE], 1),
    "reshape_inner": (
        'type: "Reshape" reshape_param { shape { dim: 2 dim: 2 } axis: 1 num_axes: 1 }',
        [PLANE],
        1,
    ),
    "permute": ('type: "Permute" permute_param { order: 0 order: 2 order: 3 }', [PLANE], 1),
    "shuffle": ('type: "ShuffleChannel" shuffle_channel_param { group: 2 }', [PLANE], 1),
    "tile": ('type: "Tile" tile_param { axis: 2 tiles: 3 }', [PLANE], 1),
    "mean": ('type: "Reduction" reduction_param { operation: MEAN axis: 1 coeff: 2 }', [PLANE], 1),
    "asum": ('type: "Reduction" reduction_param { operation: ASUM axis: 2 }', [PLANE], 1),
    "sumsq": ('type: "Reduction" reduction_param { operation: SUMSQ axis: 1 }', [PLANE], 1),
    "total": ('type: "Reduction"', [PLANE], 1),
    "crop": ('type: "Crop" crop_param { offset: 2 offset: 1 }', [PLANE, (2, 4, 5, 3)], 1),
    "interp": ('type: "Interp" interp_param { height: 11 width: 9 pad_beg: -1 }', [PLANE], 1),
    "abs": ('type: "AbsVal"', [FLAT], 1),
    "bnll": ('type: "BNLL"', [FLAT], 1),
    "clip": ('type: "Clip" clip_param { min: -0.5 max: 0.7 }', [FLAT], 1),
    "swish": ('type: "Swish" swish_param { beta: 1.5 }', [FLAT], 1),
    "silu": ('type: "Swish"', [FLAT], 1),
    "threshold": ('type: "Threshold" threshold_param { threshold: 0.2 }', [FLAT], 1),
    "power": ('type: "Power" power_param { power: 2 scale: -0.5 shift: 1 }', [FLAT], 1),
    "power_0": ('type: "Power" power_param { power: 2 scale: 0 shift: 3 }', [FLAT], 1),
    "exp": ('type: "Exp" exp_param { base: 2 scale: 0.5 shift: 1 }', [FLAT], 1),
    "log": ('type: "Log" log_param { base: 10 scale: 0.1 shift: 9 }', [FLAT], 1),
}

NAMES = """
name: "5 nets; \\"\\"\\" import this\\n"
layer { name: "data" type: "Input" top: "self" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "forward" type: "InnerProduct" bottom: "self" top: "a/b" param { name: "w" }
  inner_product_param { num_output: 3 } }
layer { name: "class" type: "ReLU" bottom: "a/b" top: "a/b" }
layer { name: "a.b" type: "InnerProduct" bottom: "a/b" top: "a b" param { name: "w" }
  inner_product_param { num_output: 3 } }
layer { name: "a-b\\n" type: "InnerProduct" bottom: "a b" top: "torch" param { name: "w" }
  inner_product_param { num_output: 3 transpose: true } }
layer { name: "training" type: "TanH" bottom: "torch" top: "'\\"F" }
"""
INCEPTION = (
    inputs_text((2, 3, 9, 9))
    + """
layer { name: "a" type: "Convolution" bottom: "x0" top: "a"
  convolution_param { num_output: 4 kernel_size: 1 } }
layer { name: "a/relu" type: "ReLU" bottom: "a" top: "a" }
layer { name: "p" type: "Pooling" bottom: "x0" top: "p"
  pooling_param { kernel_size: 3 stride: 1 pad: 1 } }
layer { name: "joined" type: "Concat" bottom: "a" bottom: "p" bottom: "a" top: "joined" }
layer { name: "drop" type: "Dropout" bottom: "joined" top: "joined" }
layer { name: "ip" type: "InnerProduct" bottom: "joined" top: "ip"
  inner_product_param { num_output: 5 } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""
)


def randomized(net: Net) -> Net:
    torch.manual_seed(1)
    with torch.no_grad():
        for param in net.params:
            param.blob.uniform_(0.1, 0.9)
    return net


def answers(net: Net) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Draw inputs, and return them with what our net makes of them."""
    torch.manual_seed(2)
    given = {name: torch.randn(net.shapes[name]) for name in net.inputs}
    with torch.no_grad():
        net(given)
    outputs = {name: net.blobs[name].numpy() for name in net.outputs}
    return {str(i): x.numpy() for i, x in enumerate(given.values())}, outputs


def real_models() -> dict[str, tuple[Path, Path]]:
    pairs = {
        "lenet": "lenet-ethereon/lenet lenet-ethereon/lenet_iter_10000",
        "lenet_of_2014": "lenet-v1-everpeace-2014/lenet lenet-v1-everpeace-2014/lenet_iter_10000",
        "cifar10_quick": "cifar10-v1-everpeace-2014/cifar10_quick "
        "cifar10-v1-everpeace-2014/cifar10_quick_iter_5000",
        "cifar10_full": "cifar10-v1-everpeace-2014/cifar10_full "
        "cifar10-v1-everpeace-2014/cifar10_full_iter_70000",
        **{
            f"det{i}": f"mtcnn-kpzhang93-2016/det{i} mtcnn-kpzhang93-2016/det{i}" for i in (1, 2, 3)
        },
    }
    files = {name: pair.split() for name, pair in pairs.items()}
    return {
        n: (MODELS / f"{m}.prototxt", MODELS / f"{w}.caffemodel") for n, (m, w) in files.items()
    }


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any]]:
    """Ours and the written modules' outputs, by case; one process runs all modules."""
    folder = tmp_path_factory.mktemp("written")
    nets = {name: layer_net(b, *shapes, tops=n, phase=1) for name, (b, shapes, n) in CASES.items()}
    nets |= {"names": make_net(NAMES), "inception": make_net(INCEPTION)}
    ours = {}
    for name, net in nets.items():
        module = to_torch(randomized(net), "a net.prototxt")
        (folder / f"case_{name}.py").write_text(module.source)
        save_file(module.weights, folder / f"case_{name}.safetensors")
        given, ours[name] = answers(net)
        np.savez(folder / f"case_{name}.npz", **given)
    for name, (model, weights) in real_models().items():
        if not model.is_file():
            continue
        path = folder / f"case_{name}.py"
        words = ["-model", str(model), "-weights", str(weights), "-output", str(path)]
        assert main(words) == 0
        net = load_net(model)
        load_all_weights(net, weights)
        given, ours[name] = answers(net)
        np.savez(folder / f"case_{name}.npz", **given)
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return {n: (v, dict(np.load(folder / f"case_{n}.out.npz"))) for n, v in ours.items()}


def check(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    if list(theirs) == ["only"]:
        theirs = dict(zip(ours, theirs.values(), strict=True))
    assert set(theirs) == set(ours)
    for name, want in ours.items():
        assert theirs[name].shape == want.shape
        np.testing.assert_allclose(
            theirs[name], want, rtol=0, atol=BOUND * max(1.0, float(np.abs(want).max()))
        )


@pytest.mark.parametrize("name", [*CASES, "names", "inception"])
def test_written_module_answers_as_the_net(name: str, results: dict[str, tuple[Any, Any]]) -> None:
    check(*results[name])


@pytest.mark.parametrize("name", real_models())
def test_written_model_answers_as_the_net(name: str, results: dict[str, tuple[Any, Any]]) -> None:
    if name not in results:
        pytest.skip(f"{MODELS} is not here")
    check(*results[name])


def test_every_emitter_has_a_case_and_a_layer_type() -> None:
    tested = {body.split('"')[1] for body, _, _ in CASES.values()}
    assert set(EMITTERS) == tested
    assert set(EMITTERS) <= set(layer_types())


def test_module_reads_as_a_person_would_write_it() -> None:
    source = to_torch(make_net(INCEPTION)).source
    assert "    self.a = nn.Conv2d(3, 4, kernel_size=1)  # net.prototxt:3 a (Convolution)" in source
    assert "    p = self.p(x0)\n" in source
    assert "    joined = torch.cat([a, p, a], dim=1)  # net.prototxt:8 joined (Concat)\n" in source
    assert "    return prob\n" in source


def test_shared_parameter_stays_one_parameter(tmp_path: Path) -> None:
    module = to_torch(randomized(make_net(NAMES)))
    assert "self.a_b.weight = self.forward_2.weight" in module.source
    # Of the transposed one only the values are the same.
    assert "self.a_b_2.weight =" not in module.source


def test_layers_without_a_form_are_all_listed() -> None:
    net = make_net(
        inputs_text((2, 3, 5, 5))
        + """layer { name: "m" type: "MVN" bottom: "x0" top: "m" }
layer { name: "p" type: "Pooling" bottom: "m" top: "p" top: "mask"
  pooling_param { kernel_size: 2 } }
layer { name: "s" type: "SPP" bottom: "p" top: "s" spp_param { pyramid_height: 1 } }"""
    )
    with pytest.raises(ExportError) as caught:
        to_torch(net)
    message = str(caught.value)
    assert "net.prototxt:2: layer 'm' (MVN)\n" in message
    assert "net.prototxt:3: layer 'p' (Pooling): a mask as the second top\n" in message
    assert "net.prototxt:5: layer 's' (SPP)\n" in message
    assert "Types that can: AbsVal, BNLL, BatchNorm," in message


def test_output_that_is_no_python_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-model", "a.prototxt", "-weights", "a.caffemodel", "-output", "a.onnx"]
    assert main(words) == 1
    assert "NAME.py. Received: a.onnx" in capsys.readouterr().err

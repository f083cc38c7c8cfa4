"""What images are made for, against plain re-implementations."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_kd.data.backends.idx import write_idx
from caffe_kd.net import Net, load_net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.proto.binary import write_weights
from caffe_kd.synthesis import generator, noise
from caffe_kd.synthesis.teacher import PixelTeacher

CLOSE = 1e-5  # float32 against float64, some hundred terms
SHAPE = (3, 9, 7)
LAYERS = """
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "msra" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "bn" }
layer { name: "relu" type: "ReLU" bottom: "bn" top: "bn" }
layer { name: "ip1" type: "InnerProduct" bottom: "bn" top: "ip1"
  inner_product_param { num_output: 6 weight_filler { type: "msra" } } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  inner_product_param { num_output: 5 weight_filler { type: "msra" } } }
"""
INPUT = (
    'layer { name: "data" type: "Input" top: "data" input_param '
    "{ shape { dim: 1 dim: 3 dim: 9 dim: 7 } } }"
)


@pytest.fixture
def teacher(tmp_path: Path) -> PixelTeacher:
    """A net with BatchNorm whose weights and statistics are random."""
    torch.manual_seed(0)
    (tmp_path / "net.prototxt").write_text(INPUT + LAYERS)
    net = Net(text.parse(INPUT + LAYERS, pb.NetParameter()), pb.TEST)
    weights = net.weights()
    draw = np.random.default_rng(0)
    weights["bn"] = [
        np.float32(draw.normal(size=4)),
        np.float32(draw.uniform(1, 2, 4)),
        np.float32([2.0]),
    ]
    write_weights(tmp_path / "net.caffemodel", net.param, weights)
    return PixelTeacher(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")


def pixels(count: int = 6) -> torch.Tensor:
    return torch.rand((count, *SHAPE), generator=torch.Generator().manual_seed(3))


def test_noise_objective_is_its_formula(teacher: PixelTeacher, tmp_path: Path) -> None:
    x = pixels()
    targets = torch.tensor([0, 1, 2, 3, 4, 0])
    net = load_net(tmp_path / "net.prototxt")
    net.load_weights(tmp_path / "net.caffemodel")
    net({"data": 255 * x})
    z = net.blobs["ip2"].detach().double().numpy()
    logs = z - np.log(np.exp(z).sum(1, keepdims=True))
    entropy = -np.mean([row[t] for row, t in zip(logs, targets.tolist(), strict=True)])
    planes = x.double().numpy()
    variation = np.abs(np.diff(planes, axis=2)).mean() + np.abs(np.diff(planes, axis=3)).mean()
    conv = net.blobs["conv"].detach().double().numpy()
    mean, var, count = (b.detach().double().numpy() for b in net.nodes[2].layer.blobs)
    distance = np.sqrt(((conv.mean((0, 2, 3)) - mean / count) ** 2).sum())
    distance += np.sqrt(((conv.var((0, 2, 3)) - var / count) ** 2).sum())
    settings = noise.NoiseSettings(total_variation=3.0, l2=0.5, statistics=0.25)
    wanted = entropy + 3.0 * variation + 0.5 * (planes**2).mean() + 0.25 * distance
    assert teacher.has_statistics
    found = noise.objective(teacher, x, targets, settings)
    assert float(found) == pytest.approx(wanted, rel=CLOSE)


def test_noise_objective_has_a_gradient_to_every_pixel(teacher: PixelTeacher) -> None:
    x = pixels().requires_grad_(True)
    loss = noise.objective(teacher, x, torch.zeros(6, dtype=torch.long), noise.NoiseSettings())
    (gradient,) = torch.autograd.grad(loss, [x])
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).all()


def test_total_variation_of_a_plane_and_of_one_pixel() -> None:
    plane = torch.tensor([[0.0, 1.0], [0.0, 0.5]])[None, None]
    assert float(noise.total_variation(plane)) == pytest.approx((0 + 0.5) / 2 + (1 + 0.5) / 2)
    assert float(noise.total_variation(plane[:, :, :1, :1])) == 0


def test_generator_objective_is_dafls_formula() -> None:
    draw = np.random.default_rng(1)
    z, f = draw.normal(size=(8, 5)), draw.normal(size=(8, 6))
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    one_hot = -np.mean([math.log(row.max()) for row in p])
    balance = sum(share * math.log10(share) for share in p.mean(0))
    wanted = one_hot + 5 * balance - 0.1 * np.abs(f).mean()
    settings = generator.GeneratorSettings()
    found = generator.objective(torch.tensor(z), torch.tensor(f), settings)
    assert float(found) == pytest.approx(wanted, rel=1e-12)
    leaves = [torch.tensor(v, requires_grad=True) for v in (z, f)]
    assert torch.autograd.gradcheck(lambda a, b: generator.objective(a, b, settings), leaves)


def test_generator_objective_is_least_for_confident_outputs_of_all_classes() -> None:
    settings = generator.GeneratorSettings()
    features = torch.ones(10, 3)
    even = generator.objective(100 * torch.eye(10), features, settings)
    assert float(even) == pytest.approx(-5 - 0.1)  # sum of 1/10 * log10(1/10) is -1
    same = generator.objective(100 * torch.eye(10)[:1].expand(10, 10), features, settings)
    assert float(same) == pytest.approx(-0.1)  # of one class, with shares of exactly 0


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 33, 20), (2, 1, 1), (1, 8, 64)])
def test_generator_makes_images_of_the_size(shape: tuple[int, int, int]) -> None:
    made = generator.Generator(shape, 4)(torch.randn(3, generator.NOISE))
    assert made.shape == (3, *shape)
    assert made.min() >= 0 and made.max() <= 1


def test_pixels_go_through_mean_and_scale_of_the_data_layer(tmp_path: Path) -> None:
    images = np.random.default_rng(2).integers(0, 256, (4, 9, 7), np.uint8)
    write_idx(tmp_path / "t-images-idx3-ubyte", images)
    write_idx(tmp_path / "t-labels-idx1-ubyte", np.arange(4, dtype=np.uint8))
    net = (
        'layer { name: "d" type: "Data" top: "data" top: "label" '
        "transform_param { scale: 0.0125 mean_value: 30 mirror: false } "
        'data_param { source: "t-images-idx3-ubyte" backend: IDX batch_size: 4 } }'
        + LAYERS
        + 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" }'
    )
    path, weights = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    path.write_text(net)
    built = load_net(path)
    write_weights(weights, built.param, built.weights())
    built()
    expected = built.blobs["ip2"].detach()
    found = PixelTeacher(path, weights)(torch.from_numpy(images)[:, None].float())
    torch.testing.assert_close(found, expected, rtol=CLOSE, atol=CLOSE)
    (tmp_path / "t-images-idx3-ubyte").unlink()  # the data is gone
    shaped = PixelTeacher(path, weights, shape=(1, 9, 7))
    torch.testing.assert_close(shaped(torch.from_numpy(images)[:, None].float()), found)

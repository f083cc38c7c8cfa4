"""What holds of each loss between a student's features and its teacher's."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from caffe_kd.export.deploy import deploy
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from tests.helpers import gradcheck, layer_net, make_layer, run

Shape = tuple[int, ...]

# A gradient to values of about 1 that is larger has come from a division by an epsilon.
ORDINARY = 1e4


def loss_of(body: str, *values: Tensor) -> Tensor:
    """Return what a layer of this type and parameters makes of its bottoms."""
    layer = make_layer(body, *(tuple(v.shape) for v in values))
    return run(layer, *values)[0]


def check_pair_loss(body: str, *shapes: Shape, of_teacher: bool = True) -> None:
    """Hold a layer against what holds of all such losses.

    Args:
        body: its type and parameters, as in a prototxt.
        shapes: of the student's bottoms, then of as many of the teacher's.
        of_teacher: whether the loss has a derivative to the teacher's.
    """
    torch.manual_seed(3)
    values = [torch.randn(shape) for shape in shapes]
    layer = make_layer(body, *shapes)
    assert run(layer, *values)[0].shape == ()
    gradcheck(layer, *values)
    _hold_gradients(body, values, of_teacher)
    _hold_ends(body, shapes)
    _hold_layout(body, values)
    _hold_deployment(body, shapes)


def _gradients(body: str, values: list[Tensor]) -> list[Tensor | None]:
    net = layer_net(body, *(tuple(v.shape) for v in values))
    leaves = [v.detach().clone().requires_grad_() for v in values]
    objective = net({f"x{i}": leaf for i, leaf in enumerate(leaves)})
    assert objective is not None
    return list(torch.autograd.grad(objective, leaves, allow_unused=True))


def _hold_gradients(body: str, values: list[Tensor], of_teacher: bool) -> None:
    """To the teacher there is one only where propagate_down asks, and the weight scales all."""
    half = len(values) // 2
    plain = _gradients(body, values)
    assert all(g is not None and g.any() for g in plain[:half])
    assert all(g is None for g in plain[half:])
    asked = _gradients(f"{body} {'propagate_down: true ' * len(values)}", values)
    if of_teacher:
        assert all(g is not None and g.any() for g in asked[half:])
    for g, weighted in zip(plain, _gradients(f"{body} loss_weight: 0.25", values), strict=True):
        torch.testing.assert_close(weighted, None if g is None else g / 4)


def _hold_ends(body: str, shapes: tuple[Shape, ...]) -> None:
    """One sample, no activity, all alike: value and gradient are finite and of ordinary size."""
    torch.manual_seed(4)
    half = len(shapes) // 2
    alone = [torch.randn(1, *shape[1:]) for shape in shapes]
    silent = [torch.zeros(shape) for shape in shapes]
    half_silent = [torch.randn(shape) for shape in shapes]
    for value in half_silent[:half]:
        value[0] = 0
    alike = [torch.randn(1, *shape[1:]).expand(shape) for shape in shapes]
    flat = [torch.full(shape, 0.5) for shape in shapes]
    spoken = [torch.randn(shape) for shape in shapes]
    for values in (alone, silent, half_silent, alike, flat, silent[:half] + spoken[half:]):
        for gradient in _gradients(body, values)[:half]:
            assert gradient is not None
            assert gradient.isfinite().all()
            assert gradient.abs().max() < ORDINARY
        assert loss_of(body, *values).isfinite()


def _hold_layout(body: str, values: list[Tensor]) -> None:
    """Maps that lie in memory channels last give the same."""
    last = [v.contiguous(memory_format=torch.channels_last) if v.dim() == 4 else v for v in values]
    torch.testing.assert_close(loss_of(body, *last), loss_of(body, *values))


def _hold_deployment(body: str, shapes: tuple[Shape, ...]) -> None:
    """The loss goes, and with it what makes the student's features fit."""
    half = len(shapes) // 2
    net = 'layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } } }'
    net += 'layer { name: "lab" type: "Input" top: "label" input_param { shape { dim: 2 } } }'
    net += _product("ip", "data", "ip", 4) + _product("teacher/ip", "data", "teacher/ip", 5)
    bottoms = ""
    for index, shape in enumerate(shapes):
        source = "ip" if index < half else "teacher/ip"
        net += _product(f"fit{index}", source, f"flat{index}", math.prod(shape[1:]))
        dims = " ".join(f"dim: {size}" for size in (0, *shape[1:]))
        net += (
            f'layer {{ name: "shape{index}" type: "Reshape" bottom: "flat{index}" '
            f'top: "fit{index}" reshape_param {{ shape {{ {dims} }} }} }}'
        )
        bottoms += f'bottom: "fit{index}" '
    net += f'layer {{ name: "features_loss" {bottoms} top: "features_loss" {body} }}'
    net += 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }'
    deployed = deploy(text.parse(net, pb.NetParameter(), "net.prototxt"))
    assert [layer.name for layer in deployed.layer] == ["in", "ip"]


def _product(name: str, bottom: str, top: str, outputs: int) -> str:
    return (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{top}" '
        f"inner_product_param {{ num_output: {outputs} }} }}"
    )

import pytest
import torch
from torch.autograd import gradcheck

from caffe_kd.core.errors import NetError
from tests.helpers import check_onnx, golden_case
from tests.layers.loss_nets import input_net, layer_of


def softmax_net(shape, axis):
    return input_net(
        {"x": shape},
        'layer { name: "L" type: "Softmax" bottom: "x" top: "y" '
        f"softmax_param {{ axis: {axis} }} }}",
    )


def test_softmax_matches_caffe():
    golden_case("softmax")


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_softmax_sums_to_one_along_its_axis(axis):
    net = softmax_net((2, 3, 4), axis)
    net({"x": torch.randn(2, 3, 4)})
    top = net.blobs["y"]
    assert net.shapes["y"] == top.shape == (2, 3, 4)
    torch.testing.assert_close(top.sum(axis), torch.ones_like(top.sum(axis)))


def test_softmax_gradient():
    x = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(layer_of(softmax_net((2, 3, 2), 1)), x)


def test_softmax_axis_out_of_range_fails():
    with pytest.raises(NetError, match=r"layer 'L' \(Softmax\): axis is out of range.*axis=4"):
        softmax_net((2, 3), 4)


def test_softmax_in_onnx_runtime():
    check_onnx(softmax_net((2, 3, 4), -2))


def cooled_net(temperature):
    return input_net(
        {"x": (2, 5)},
        'layer { name: "L" type: "Softmax" bottom: "x" top: "y" '
        f"softmax_param {{ temperature: {temperature} }} }}",
    )


@pytest.mark.parametrize(("temperature", "divisor"), [(0, 1), (1, 1), (4, 4), (0.5, 0.5)])
def test_softmax_temperature_divides_and_0_is_off(temperature, divisor):
    x = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    layer = layer_of(cooled_net(temperature))
    torch.testing.assert_close(layer(x), torch.softmax(x / divisor, 1))
    assert gradcheck(layer, x)


@pytest.mark.parametrize("temperature", [-1, "nan", "inf"])
def test_softmax_temperature_below_0_fails(temperature):
    with pytest.raises(NetError, match="temperature must be above 0, or 0 for none"):
        cooled_net(temperature)


def test_softmax_temperature_in_onnx_runtime():
    check_onnx(cooled_net(3))

import pytest
import torch
from torch.autograd import gradcheck

from caffe_kd.core.errors import NetError
from tests.helpers import check_onnx
from tests.layers.loss_nets import input_net, layer_of


def soft_net(settings="", shape=(2, 3, 4)):
    return input_net(
        {"x": shape},
        'layer { name: "L" type: "SoftmaxWithTemperature" bottom: "x" top: "y" '
        f"softmax_with_temperature_param {{ {settings} }} }}",
    )


def test_softmax_with_temperature_unset_is_softmax():
    net, x = soft_net(), torch.randn(2, 3, 4)
    net({"x": x})
    torch.testing.assert_close(net.blobs["y"], torch.softmax(x, 1))
    assert net.shapes["y"] == (2, 3, 4)


@pytest.mark.parametrize("axis", [1, -1])
def test_softmax_with_temperature_divides_the_scores(axis):
    x = torch.randn(2, 3, 4)
    layer = layer_of(soft_net(f"temperature: 4 axis: {axis}"))
    torch.testing.assert_close(layer(x), torch.softmax(x / 4, axis))


def test_softmax_with_temperature_gradient():
    x = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(layer_of(soft_net("temperature: 3")), x)


@pytest.mark.parametrize("temperature", ["0", "-1", "nan", "inf"])
def test_softmax_with_temperature_refuses_what_is_not_above_zero(temperature):
    with pytest.raises(NetError, match=r"net.prototxt:2: layer 'L' .*must be above 0.*Received"):
        soft_net(f"temperature: {temperature}")


def test_softmax_with_temperature_in_onnx_runtime():
    check_onnx(soft_net("temperature: 5 axis: 2"))

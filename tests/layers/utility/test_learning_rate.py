import pytest

from caffe_kd.core.errors import NetError
from tests.layers.loss_nets import input_net

# As people write it: an empty bottom is no bottom.
LAYER = """layer {
    name: "lr"
    type: "LearningRate"
    bottom: ""
    top: "lr"
    lr_param { policy: "fixed" decay_mult: 0 }
}"""


def test_learning_rate_is_the_current_rate():
    net = input_net({}, LAYER)
    for rate in (0.0, 0.01, 0.001):
        net.context.rate = rate
        assert net() is None  # no loss
        assert float(net.blobs["lr"]) == pytest.approx(rate)
    assert net.outputs == ["lr"]
    assert net.shapes["lr"] == net.blobs["lr"].shape == ()


def test_learning_rate_with_a_bottom_fails():
    with pytest.raises(NetError, match="bottoms=1"):
        input_net({"x": (1,)}, LAYER.replace('""', '"x"'))

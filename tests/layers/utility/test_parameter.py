from __future__ import annotations

import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.export.deploy import deploy
from caffe_kd.net import Net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from tests.helpers import check_onnx, inputs_text, make_layer, make_net, run

BODY = 'type: "Parameter" parameter_param { shape { dim: 3 dim: 2 } }'
NET = f"""
layer {{ name: "p" {BODY} top: "p" }}
layer {{ name: "sum" type: "Bias" bottom: "x0" bottom: "p" top: "sum" }}
layer {{ name: "loss" type: "EuclideanLoss" bottom: "sum" bottom: "x1" top: "loss" }}
"""


def net_text() -> str:
    return inputs_text((4, 3, 2), (4, 3, 2)) + NET


def test_top_is_the_blob():
    layer = make_layer(BODY)
    (top,) = run(layer)
    assert tuple(top.shape) == (3, 2)
    assert (top == 0).all()
    with torch.no_grad():
        layer.blobs[0].fill_(2)
    assert (run(layer)[0] == 2).all()


def test_parameter_learns():
    net = make_net(net_text(), pb.TRAIN)
    target = torch.randn(4, 3, 2)
    net({"x0": torch.zeros(4, 3, 2), "x1": target}).backward()
    (param,) = net.params
    # The loss is sum (p - t)^2 / (2 N) over N samples.
    torch.testing.assert_close(param.blob.grad, -target.mean(0))


def test_lr_mult_zero_keeps_it_as_it_is():
    body = net_text().replace('top: "p"', 'top: "p" param { lr_mult: 0 }', 1)
    objective = make_net(body, pb.TRAIN)({"x0": torch.zeros(4, 3, 2), "x1": torch.ones(4, 3, 2)})
    assert not objective.requires_grad


def test_shared_parameter_is_the_other_layers_blob():
    net = make_net(
        inputs_text((2, 3))
        + """
        layer { name: "ip" type: "InnerProduct" bottom: "x0" top: "ip" param { name: "w" }
                inner_product_param { num_output: 2 bias_term: false
                                      weight_filler { type: "xavier" } } }
        layer { name: "p" type: "Parameter" top: "p" param { name: "w" }
                parameter_param { shape { dim: 2 dim: 3 } } }
        """
    )
    net()
    assert net.blobs["p"] is net.node_of("ip").layer.blobs[0]


def test_deployed_net_and_onnx_keep_it():
    param = deploy(text.parse(net_text(), pb.NetParameter(), "net.prototxt"))
    assert [layer.type for layer in param.layer] == ["Input", "Parameter", "Bias"]
    net = Net(param, pb.TEST)
    torch.nn.init.normal_(net.node_of("p").layer.blobs[0])
    check_onnx(net)


def test_absurd_shape_is_refused():
    with pytest.raises(NetError, match="every dim of parameter blob 0 must be at least 1"):
        make_layer(BODY.replace("dim: 2", "dim: 0"))

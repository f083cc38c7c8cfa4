"""How long a net takes, and which share of it each node."""

from __future__ import annotations

from caffe_kd.export.latency import microseconds, node_shares
from caffe_kd.export.onnx import node_layers, onnx_model
from caffe_kd.net import Net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text

NET = """
layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 1 dim: 8 dim: 32 dim: 32 } } }
layer { name: "large" type: "Convolution" bottom: "data" top: "large"
  convolution_param { num_output: 64 kernel_size: 5 pad: 2 } }
layer { name: "relu" type: "ReLU" bottom: "large" top: "large" }
layer { name: "small" type: "Convolution" bottom: "large" top: "small"
  convolution_param { num_output: 2 kernel_size: 1 } }
layer { name: "ip" type: "InnerProduct" bottom: "small" top: "ip"
  inner_product_param { num_output: 3 } }
"""


def test_layers_share_the_time_as_their_work_is() -> None:
    net = Net(text.parse(NET, pb.NetParameter()), pb.TEST)
    model = onnx_model(net)
    assert microseconds(model) > 0
    shares = node_shares(model)
    layer_of = node_layers(net)
    assert {layer_of[name] for name in shares} >= {"large", "small", "ip"}
    assert sum(shares.values()) <= 1
    assert shares["large"] > 3 * shares["small"]  # 200 times the multiply-adds

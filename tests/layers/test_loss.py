"""Every loss and Accuracy: what ``top_shapes`` says is what ``forward`` makes."""

import pytest

from caffe_kd.layers import Layer
from tests.layers.loss_nets import input_net

TYPES = {
    "Softmax": ("x", 1),
    "SoftmaxWithTemperature": ("x", 1),
    "SoftmaxWithLoss": ("x label", 2),
    "EuclideanLoss": ("x x", 1),
    "SigmoidCrossEntropyLoss": ("x x", 1),
    "Accuracy": ("x label", 2),
    "DistillingLoss": ("x x label", 1),
}


@pytest.mark.parametrize("kind", TYPES)
def test_top_shapes_are_those_of_tensors_without_storage(kind):
    bottoms, tops = TYPES[kind]
    text = " ".join(f'bottom: "{b}"' for b in bottoms.split())
    text += "".join(f' top: "y{i}"' for i in range(tops))
    net = input_net(
        {"x": (2, 4, 3, 3), "label": (2, 1, 3, 3)}, f'layer {{ name: "L" type: "{kind}" {text} }}'
    )
    step = net.step_of("L")
    written = step.layer.top_shapes(step.bottom_shapes)
    assert written == Layer.top_shapes(step.layer, step.bottom_shapes)
    net()
    assert written == [tuple(net.blobs[t].shape) for t in step.tops]

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
    "InfogainLoss": ("x label H", 2),
    "KnowledgeDistillation": ("x x", 1),
    "TempSoftmaxCrossEntropyLoss": ("x x", 1),
    "SmoothL1Loss": ("x x x x", 1),
    "SoftmaxTemperature": ("x", 1),
    "ContrastiveLoss": ("f f class", 1),
    "HingeLoss": ("x class", 1),
    "MultinomialLogisticLoss": ("x class", 1),
    "CenterLoss": ("x class", 1),
}
SETTINGS = {"CenterLoss": "center_loss_param { num_output: 3 }"}
# "label" has one for each position, "class" one for each sample.
SHAPES = {"x": (2, 4, 3, 3), "f": (2, 4), "label": (2, 1, 3, 3), "class": (2,), "H": (4, 4)}


@pytest.mark.parametrize("kind", TYPES)
def test_top_shapes_are_those_of_tensors_without_storage(kind):
    bottoms, tops = TYPES[kind]
    text = " ".join(f'bottom: "{b}"' for b in bottoms.split())
    text += "".join(f' top: "y{i}"' for i in range(tops)) + SETTINGS.get(kind, "")
    text += " loss_weight: 1 loss_weight: 0" if tops == 2 else ""
    net = input_net(SHAPES, f'layer {{ name: "L" type: "{kind}" {text} }}')
    node = net.node_of("L")
    written = node.layer.top_shapes(node.bottom_shapes)
    assert written == Layer.top_shapes(node.layer, node.bottom_shapes)
    net()
    assert written == [tuple(net.blobs[t].shape) for t in node.tops]

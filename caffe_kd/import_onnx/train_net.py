"""The train/test net of a net that came from a model: its data, labels and loss to begin with."""

from __future__ import annotations

from typing import Any

from ..net import Net
from ..proto import caffe_pb2 as pb

_WITH_FILLERS = {
    "Convolution": "convolution_param",
    "Deconvolution": "convolution_param",
    "InnerProduct": "inner_product_param",
}


def train_net(net: Net, stem: str) -> Any:
    """Return the train/test net, as a message.

    A classifier of images gets Data layers, to be filled in, a SoftmaxWithLoss and an Accuracy; of
    a Softmax at its end the loss takes the bottom. Other nets keep their Input layers, and their
    loss is to be added. Weights get fillers, for training from the start.

    Args:
        net: the deploy net.
        stem: begins the names of the data.
    """
    param = pb.NetParameter(name=net.param.name)
    logits = _logits(net)
    first = net.inputs[0] if net.inputs else ""
    is_classifier = logits is not None and len(net.inputs) == 1 and len(net.shapes[first]) == 4
    for layer in net.param.layer:
        if is_classifier and layer.type == "Input":
            param.layer.extend(_data(first, phase, stem) for phase in ("TRAIN", "TEST"))
            continue
        copy = param.layer.add()
        copy.CopyFrom(layer)
        if layer.type in _WITH_FILLERS and not layer.param:
            settings = getattr(copy, _WITH_FILLERS[layer.type])
            settings.weight_filler.type = "msra"
        if logits is not None and logits in layer.bottom and layer.type == "Softmax":
            copy.include.add(phase=pb.TEST)
    if logits is not None:
        label = [] if is_classifier else [_label(net)]
        param.layer.extend([*label, *_losses(logits)])
    return param


def _logits(net: Net) -> str | None:
    """Return the blob of scores (N, classes) that the net ends in, if it does."""
    if len(net.outputs) != 1:
        return None
    (output,) = net.outputs
    last = next(node for node in reversed(net.nodes) if output in node.tops)
    blob = last.bottoms[0] if last.layer.type == "Softmax" else output
    shape = net.shapes[blob]
    return blob if len(shape) == 2 and shape[1] > 1 else None


def _data(top: str, phase: str, stem: str) -> Any:
    return pb.LayerParameter(
        name="data",
        type="Data",
        top=[top, "label"],
        include=[{"phase": phase}],
        data_param={
            "source": f"{stem}_{phase.lower()}_lmdb",
            "backend": "LMDB",
            "batch_size": 64 if phase == "TRAIN" else 100,
        },
    )


def _label(net: Net) -> Any:
    batch = net.shapes[net.inputs[0]][0]
    return pb.LayerParameter(
        name="label", type="Input", top=["label"], input_param={"shape": [{"dim": [batch]}]}
    )


def _losses(logits: str) -> list[Any]:
    bottoms = [logits, "label"]
    return [
        pb.LayerParameter(
            name="accuracy",
            type="Accuracy",
            bottom=bottoms,
            top=["accuracy"],
            include=[{"phase": "TEST"}],
        ),
        pb.LayerParameter(name="loss", type="SoftmaxWithLoss", bottom=bottoms, top=["loss"]),
    ]

"""What pruning takes from batches of training data: gradients, and BatchNorm's statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..core.errors import CaffeKDError, NetError
from ..net import Net, statistics
from ..proto import caffe_pb2 as pb
from ..proto.filter import filter_net
from .cut import Weights, as_layers
from .options import NetState


def taylor(
    param: Any, weights: Weights, file: Path | None, state: NetState, iterations: int
) -> Weights:
    """Return ``|w * gradient|`` of each parameter, summed over batches of training data.

    Raises:
        NetError: the net has no loss in TRAIN.
        CaffeKDError: its data is absent.
    """
    net = _training_net(param, weights, file, state)
    sums: dict[int, torch.Tensor] = {}
    for _ in range(iterations):
        objective = net()
        if objective is None or not objective.requires_grad:
            raise NetError(
                "-criterion TAYLOR goes by gradients, and the net has no loss in phase TRAIN",
                str(file) if file else None,
            )
        net.zero_grad()
        net.backward(objective)
        for p in net.params:
            if p.blob.grad is not None:
                product = (p.blob.detach() * p.blob.grad).abs()
                sums[id(p.blob)] = sums.get(id(p.blob), 0) + product
    return {
        node.layer.name: [
            sums.get(id(blob), torch.zeros_like(blob)).reshape(shape).numpy()
            for blob, shape in zip(
                node.layer.parameters_in_order, node.layer.blob_shapes, strict=True
            )
        ]
        for node in net.nodes
        if node.layer.blobs
    }


def refreshed(
    param: Any, weights: Weights, file: Path | None, state: NetState, iterations: int
) -> tuple[Weights, list[str]]:
    """Return weights with the statistics of BatchNorm taken once more; without data, as they are.

    Returns:
        The weights, and what the user should know.
    """
    layers = filter_net(param, _train_state(param, state)).layer
    if not any(layer.type in ("BatchNorm", "BN") for layer in layers):
        return weights, []
    try:
        net = _training_net(param, weights, file, state)
        if not statistics.layers_with_running_stats(net):
            return weights, []
        changes = statistics.refresh(net, iterations)
    except CaffeKDError as error:
        return weights, [
            f"the statistics of BatchNorm are those of the unpruned net, for {error}. Run caffe_kd "
            "refresh_statistics on the pruned net where its training data is"
        ]
    names = {change.layer.name for change in changes}
    return weights | {name: blobs for name, blobs in net.weights().items() if name in names}, []


def _training_net(param: Any, weights: Weights, file: Path | None, state: NetState) -> Net:
    net = Net(filter_net(param, _train_state(param, state)), pb.TRAIN, file, unfiltered=param)
    net.copy_weights(as_layers(weights), "the weights")
    return net


def _train_state(param: Any, state: NetState) -> Any:
    return pb.NetState(
        phase=pb.TRAIN,
        level=state.level or param.state.level,
        stage=[*param.state.stage, *state.stages],
    )

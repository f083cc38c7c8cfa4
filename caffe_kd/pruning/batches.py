"""What pruning takes from batches of training data: gradients, and BatchNorm's statistics."""

from __future__ import annotations

from collections.abc import Collection
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
    param: Any,
    weights: Weights,
    layers: Collection[str],
    file: Path | None,
    state: NetState,
    iterations: int,
) -> Weights:
    """Return ``|w * gradient|`` of layers' parameters, summed over batches of training data.

    Those that do not learn have gradients too.

    Raises:
        NetError: the net has no loss in TRAIN.
        CaffeKDError: its data is absent.
    """
    net = _training_net(param, weights, file, state)
    nodes = [node for node in net.nodes if node.layer.name in layers]
    blobs = {node.layer.name: node.layer.parameters_in_order for node in nodes}
    sums = {name: [torch.zeros_like(b) for b in of] for name, of in blobs.items()}
    for blob in (b for of in blobs.values() for b in of):
        blob.requires_grad_()
    for _ in range(iterations):
        objective = net()
        if objective is None or not objective.requires_grad:
            raise NetError(
                "-criterion TAYLOR goes by gradients, and the net has no loss in phase TRAIN",
                str(file) if file else None,
            )
        net.zero_grad()
        net.backward(objective)
        for name, of in blobs.items():
            for total, blob in zip(sums[name], of, strict=True):
                if blob.grad is not None:
                    total += (blob.detach() * blob.grad).abs()
    return {name: [total.numpy() for total in totals] for name, totals in sums.items()}


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

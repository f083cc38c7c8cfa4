"""What ``debug_info: true`` logs: how large data and gradients are, layer by layer.

A value is a mean of absolute values, so that vanishing, exploding and dead layers show. The lines
are Caffe's. Caffe inserts a Split where several layers use a blob, and logs that too; here each
layer's line has its own share of the gradient, under the blob's name.

Source: Caffe's Net::ForwardDebugInfo, BackwardDebugInfo and UpdateDebugInfo.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...layers.base import tops_of
from ...net import LayerNode, Net
from ..callback import Callback
from ..options import Options

if TYPE_CHECKING:
    from ..solver import Solver


class DebugInfo(Callback):
    """Logs each layer of a net as it runs forward, and on request backward and update.

    Args:
        net: the net, each of whose layers gets a hook.
        notify: logs a line.

    Attributes:
        showing: whether lines are logged.
    """

    def __init__(self, net: Net, notify: Callable[[str], None]) -> None:
        self.net = net
        self.notify = notify
        self.showing = True
        self._bottoms: dict[str, list[tuple[str, Tensor]]] = {}  # by layer, those with gradients
        self._before: list[Tensor] = []  # the parameters before an update
        for node in net.nodes:
            node.layer.register_forward_pre_hook(self._before_layer(node))
            node.layer.register_forward_hook(self._after_layer(node))

    # ---- forward

    def _before_layer(self, node: LayerNode) -> Callable[[Any, tuple[Tensor, ...]], Any]:
        def hook(layer: Any, bottoms: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            if not self.showing or not torch.is_grad_enabled():
                return None
            # A layer's own view of a blob has this layer's share of the blob's gradient.
            own = tuple(b.view_as(b) if b.requires_grad else b for b in bottoms)
            pairs = list(zip(node.bottoms, own, strict=True))
            self._bottoms[node.layer.name] = [(n, b) for n, b in pairs if b.requires_grad]
            for _, bottom in self._bottoms[node.layer.name]:
                bottom.retain_grad()
            return own

        return hook

    def _after_layer(self, node: LayerNode) -> Callable[[Any, Any, Any], None]:
        def hook(layer: Any, bottoms: Any, result: Any) -> None:
            if not self.showing:
                return
            tops = tops_of(result)
            prefix = f"    [Forward] Layer {node.layer.name}"
            for name, top in zip(node.tops, tops, strict=True):
                self.notify(f"{prefix}, top blob {name} data: {_size(top)}")
            for index, blob in enumerate(node.layer.blobs):
                name = _param_name(node.layer, index)
                self.notify(f"{prefix}, param blob {name} data: {_size(blob)}")

        return hook

    # ---- backward and update

    def before_forward(self, solver: Solver) -> None:
        """Log only the iterations that are displayed."""
        self.showing = solver.displays

    def after_backward(self, solver: Solver) -> None:
        """Log a pass's gradients."""
        self.backward()

    def backward(self) -> None:
        """Log the gradients of a backward pass, from the last layer to the first."""
        if not self.showing:
            return
        for node in reversed(self.net.nodes):
            prefix = f"    [Backward] Layer {node.layer.name}"
            for name, bottom in self._bottoms.pop(node.layer.name, []):
                if bottom.grad is not None:
                    self.notify(f"{prefix}, bottom blob {name} diff: {_size(bottom.grad)}")
            for index, blob in enumerate(node.layer.parameters_in_order):
                if blob.grad is not None:
                    self.notify(f"{prefix}, param blob {index} diff: {_size(blob.grad)}")
        data = [p.blob.detach() for p in self.net.params]
        diff = [p.blob.grad for p in self.net.params if p.blob.grad is not None]
        l1, l2 = (f"({_norm(data, order):g}, {_norm(diff, order):g})" for order in (1, 2))
        self.notify(f"    [Backward] All net params (data, diff): L1 norm = {l1}; L2 norm = {l2}")

    def before_update(self, solver: Solver) -> None:
        """Copy the parameters."""
        if self.showing:
            self._before = [p.blob.detach().clone() for p in self.net.params]

    def after_update(self, solver: Solver) -> None:
        """Log the parameters before the update, and what it subtracted (``diff``)."""
        if not self.showing:
            return
        for param, before in zip(self.net.params, self._before, strict=True):
            name = _param_name(param.layer, param.index)
            self.notify(
                f"    [Update] Layer {param.layer.name}, param {name} "
                f"data: {_size(before)}; diff: {_size(before - param.blob)}"
            )
        self._before = []


def build(solver: Solver, options: Options) -> Iterator[Callback]:
    """Yield the train net's callback if the solver has ``debug_info``."""
    if solver.param.debug_info:
        for net in solver.test_nets:
            DebugInfo(net, solver.log.info)  # its hooks are on the layers
        yield DebugInfo(solver.net, solver.log.info)


def _size(values: Tensor) -> str:
    return f"{float(values.detach().abs().mean()):g}"


def _norm(tensors: list[Tensor], order: int) -> float:
    return math.pow(sum(float(t.abs().pow(order).sum()) for t in tensors), 1 / order)


def _param_name(layer: Any, index: int) -> str:
    """Return a blob's name in its ``param``, else its index."""
    specs = layer.proto.param
    return (index < len(specs) and specs[index].name) or str(index)

"""Checks of whether a net can be exported to ONNX."""

from __future__ import annotations

from typing import Any

from ..analysis.view import View
from ..core.errors import ExportError
from ..export.deploy import deploy
from ..export.graph import Graph
from ..layers import Layer
from ..net import LayerNode
from .findings import Occurrence, Occurrences, net_check


class _Sketch(Graph):
    """A graph that collects the layers' nodes, without the values of their parameters."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(names)
        self.spliced = False

    def blob(self, layer: Layer, index: int) -> str:
        return self.temporary(f"{index}")

    def constant(self, value: Any, hint: str) -> str:
        return self.temporary(hint)

    def splice_torch(self, layer: Layer, bottoms: list[str], tops: list[str]) -> None:
        self.spliced = True


@net_check(
    "export",
    why="The layer has no ONNX export of its own: torch.onnx exports it, which may name its parts "
    "differently or fail, or it cannot be exported at all.",
    do="Try caffe_kd export_onnx, which checks the model it writes; or leave the layer out of the "
    "net that is deployed.",
)
def without_onnx_form(view: View) -> Occurrences:
    """Layers of the deployed net without an ONNX export."""
    if view.is_training or view.inference.net is None or view.inference.problems:
        return
    names = _deployed(view)
    sketch = _Sketch(list(view.inference.net.shapes))
    for name, shape in view.inference.net.shapes.items():
        sketch.define(name, shape)
    for node in view.nodes:
        if node.built is None or not node.built.bottoms or node.proto.name not in names:
            continue
        problem = _try(sketch, node.built)
        if problem:
            severity, fact = problem
            yield Occurrence(severity, node.location, f"{node.called}: {fact}")


def _deployed(view: View) -> set[str]:
    """Return the names of the layers that are deployed; none if there is nothing to deploy."""
    try:
        return {layer.name for layer in deploy(_with_inputs(view), view.file).layer}
    except ExportError:
        return set()


def _with_inputs(view: View) -> Any:
    """Return the net with its data layers replaced by inputs of known shape."""
    param = type(view.param)()
    param.CopyFrom(view.param)
    del param.layer[:]
    for node in view.nodes:
        stands_in = node.built is not None and not node.built.bottoms
        param.layer.append(node.built.layer.proto if stands_in and node.built else node.proto)
    return param


def _try(sketch: _Sketch, built: LayerNode) -> tuple[str, str] | None:
    sketch.spliced = False
    sketch.begin(built.layer.name)
    try:
        built.layer.onnx(sketch, list(built.bottoms), [f"{top}/top" for top in built.tops])
    except ExportError as error:
        return "warning", error.message.partition(": ")[2] or error.message
    except Exception:  # it needs values, of which there are none here
        return None
    return ("note", "is exported by torch.onnx") if sketch.spliced else None

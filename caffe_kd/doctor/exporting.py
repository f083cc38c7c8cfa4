"""Checks of what the exported ONNX model will be able to hold."""

from __future__ import annotations

from typing import Any

from ..analysis.view import View
from ..core.errors import ExportError
from ..export.deploy import deploy
from ..export.graph import Graph
from ..layers import Layer
from ..net import Step
from .findings import Hit, Hits, net_check


class _Sketch(Graph):
    """A graph that takes the layers' nodes, but not their parameters' values."""

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
    why="The layer has no form of its own in ONNX: it goes through torch.onnx, which may name its "
    "parts differently or fail, or cannot be exported at all.",
    do="Try tools/export_onnx.py, which checks the model it writes; or leave the layer out of the "
    "net that is deployed.",
)
def without_onnx_form(view: View) -> Hits:
    """Layers of the deployed net that have no ONNX form."""
    if view.is_training or view.survey.net is None or view.survey.problems:
        return
    names = _deployed(view)
    sketch = _Sketch(list(view.survey.net.shapes))
    for name, shape in view.survey.net.shapes.items():
        sketch.define(name, shape)
    for node in view.nodes:
        if node.step is None or not node.step.bottoms or node.proto.name not in names:
            continue
        told = _try(sketch, node.step)
        if told:
            severity, fact = told
            yield Hit(severity, node.place, f"{node.called}: {fact}")


def _deployed(view: View) -> set[str]:
    """Return the names of the layers that are deployed; none if there is nothing to deploy."""
    try:
        return {layer.name for layer in deploy(_with_inputs(view), view.file).layer}
    except ExportError:
        return set()


def _with_inputs(view: View) -> Any:
    """Return the net with the stand-ins of its data layers, whose shapes are known."""
    param = type(view.param)()
    param.CopyFrom(view.param)
    del param.layer[:]
    for node in view.nodes:
        stands_in = node.step is not None and not node.step.bottoms
        param.layer.append(node.step.layer.proto if stands_in and node.step else node.proto)
    return param


def _try(sketch: _Sketch, step: Step) -> tuple[str, str] | None:
    sketch.spliced = False
    sketch.begin(step.layer.name)
    try:
        step.layer.onnx(sketch, list(step.bottoms), [f"{top}/top" for top in step.tops])
    except ExportError as error:
        return "warning", error.message.partition(": ")[2] or error.message
    except Exception:  # a form that looks at values, of which there are none here
        return None
    return ("note", "goes through torch.onnx") if sketch.spliced else None

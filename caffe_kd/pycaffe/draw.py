"""Draws nets: layers as boxes, blobs as arrows with their shapes.

``draw_net_to_file(net_param, "net.png")`` needs neither Graphviz nor pydot; for those who have
Graphviz, ``get_pydot_graph(net_param).to_string()`` is the graph in dot.

Source: pycaffe's draw, which puts a node for each blob between the layers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from ..analysis.shape_inference import infer_shapes
from ..core.errors import NetError, UsageError
from ..core.files import write_atomically
from ..layers import Shape, layer_types
from ..proto import caffe_pb2
from ..proto.filter import filter_net
from . import render
from .render import Link, Node

_DOT = ("dot", "gv", "raw")  # Graphviz's language
FORMATS = (*render.FORMATS, *_DOT)
RANKDIRS = ("TB", "BT", "LR", "RL")
MOST_LAYERS = 3000  # more would be unreadable, and take minutes to lay out
MOST_TEXT = 48  # characters of a line

_SOURCE, _LOSS, _MEASURE, _POOLING = "#CDE8CF", "#F6C9C4", "#F0DCF2", "#FBE0BC"
_PARAMETRIC, _OTHER = "#C5DCF0", "#FFF8D6"

Shapes = Mapping[str, Sequence[Shape]]  # of a layer's tops, by the layer's name


class Drawing:
    """A graph of layers, ready to be drawn.

    For each format there are also pydot's names: ``create_png()``, ``write_svg(filename)``, ….

    Args:
        layers: the LayerParameters in their order.
        shapes: the shapes of their tops, as far as they are known.
        rankdir: which way the graph runs: TB (top to bottom), BT, LR or RL.
        display_lrm: whether to write the learning rate multipliers of layers with parameters.
        lanes: the column of each layer by name, where it is not 0.
        titles: the headings of columns.

    Raises:
        UsageError: ``rankdir`` is none of the four.
        NetError: there are too many layers.
    """

    def __init__(
        self,
        layers: Sequence[Any],
        shapes: Shapes,
        rankdir: str = "TB",
        display_lrm: bool = False,
        lanes: Mapping[str, int] | None = None,
        titles: Mapping[int, str] | None = None,
    ) -> None:
        if rankdir not in RANKDIRS:
            raise UsageError(f"rankdir is one of {', '.join(RANKDIRS)}. Received: {rankdir}")
        if len(layers) > MOST_LAYERS:
            raise NetError(f"the net has {len(layers)} layers, and at most {MOST_LAYERS} are drawn")
        self.rankdir = rankdir
        self.titles = dict(titles or {})
        lanes = lanes or {}
        self.nodes = [
            Node(f"layer{i}", _lines(p, display_lrm), _colour(p), lanes.get(p.name, 0))
            for i, p in enumerate(layers)
        ]
        self.links = list(_links(layers, shapes))

    def create(self, format: str = "png") -> bytes:
        """Return the image as the bytes of a file: png, svg or pdf, or dot.

        Raises:
            UsageError: the format is none of these.
        """
        if format in _DOT:
            return self.to_string().encode()
        if format not in render.FORMATS:
            raise UsageError(f"nets are drawn as {', '.join(FORMATS)}. Received: {format}")
        return render.render(self.nodes, self.links, self.titles, self.rankdir, format)

    def write(self, filename: str | PathLike[str], format: str | None = None) -> None:
        """Write the image, in the format that the file's name ends with unless one is given."""
        name = os.fspath(filename)
        content = self.create(format or Path(name).suffix[1:].lower())
        write_atomically(name, content)

    def __getattr__(self, name: str) -> Any:
        verb, _, format = name.partition("_")
        if verb in ("create", "write") and format in FORMATS:
            return partial(getattr(self, verb), format=format)
        raise AttributeError(f"a Drawing has no '{name}'")

    def to_string(self) -> str:
        """Return the graph in dot, Graphviz's language."""
        lines = ["digraph Net {", f"  rankdir={self.rankdir};"]
        lines.append("  node [shape=box, style=filled];")
        for lane in sorted({node.lane for node in self.nodes}):
            own = [_dot_node(node) for node in self.nodes if node.lane == lane]
            if lane in self.titles:
                head = [f"subgraph cluster_{lane} {{", f"  label={_quoted(self.titles[lane])};"]
                own = [*head, *(f"  {line}" for line in own), "}"]
            lines += [f"  {line}" for line in own]
        for link in self.links:
            ends = f"{self.nodes[link.source].name} -> {self.nodes[link.target].name}"
            lines.append(f"  {ends} [label={_quoted(link.label)}];")
        return "\n".join([*lines, "}", ""])


def _dot_node(node: Node) -> str:
    text = _quoted("\n".join(node.lines))
    return f'{node.name} [label={text}, fillcolor="{node.colour}"];'


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


# ---- what is written on boxes and arrows


def _lines(layer: Any, display_lrm: bool) -> list[str]:
    lines = [layer.name, layer.type + _phases(layer), *_settings(layer)]
    if display_lrm and layer.param:
        lines.append("lr_mult " + ", ".join(f"{spec.lr_mult:g}" for spec in layer.param))
    return [_short(line) for line in lines if line]


def _phases(layer: Any) -> str:
    """Return which phases data is for."""
    if layer.bottom:
        return ""
    phases = sorted({rule.phase for rule in layer.include if rule.HasField("phase")})
    return f" ({', '.join(map(caffe_pb2.Phase.Name, phases))})" if phases else ""


def _settings(layer: Any) -> list[str]:
    """Return the few settings that distinguish a layer from others of its type."""
    if layer.type in ("Convolution", "Deconvolution"):
        param = layer.convolution_param
        return [f"{param.num_output} outputs", _window(param, default_stride=1)]
    if layer.type == "Pooling":
        param = layer.pooling_param
        method = caffe_pb2.PoolingParameter.PoolMethod.Name(param.pool)
        return [f"{method} {'global' if param.global_pooling else _window(param, 1)}"]
    if layer.type == "InnerProduct":
        return [f"{layer.inner_product_param.num_output} outputs"]
    if layer.type == "Dropout":
        return [f"ratio {layer.dropout_param.dropout_ratio:g}"]
    if layer.type == "DistillingLoss":
        return [f"temperature {layer.distilling_loss_param.temperature:g}"]
    if layer.type == "Python":
        return [layer.python_param.layer]
    return []


def _window(param: Any, default_stride: int) -> str:
    """Return ``5x5, stride 2, pad 1``; a stride of 1 and a pad of 0 are left out."""
    kernel, stride, pad = (
        _sizes(param, *names)
        for names in (
            ("kernel_size", "kernel_h", "kernel_w"),
            ("stride", "stride_h", "stride_w"),
            ("pad", "pad_h", "pad_w"),
        )
    )
    words = [kernel if "x" in kernel else f"{kernel}x{kernel}"]
    words += [f"stride {stride}"] if stride not in ("0", str(default_stride)) else []
    words += [f"pad {pad}"] if pad != "0" else []
    return ", ".join(words)


def _sizes(param: Any, name: str, of_height: str, of_width: str) -> str:
    if param.HasField(of_height) or param.HasField(of_width):
        return f"{getattr(param, of_height)}x{getattr(param, of_width)}"
    value = getattr(param, name)
    return str(value) if isinstance(value, int) else "x".join(map(str, value)) or "0"


def _short(text: str) -> str:
    text = text.encode("unicode_escape").decode() if not text.isprintable() else text
    return text if len(text) <= MOST_TEXT else f"{text[: MOST_TEXT - 1]}…"


def _colour(layer: Any) -> str:
    cls = layer_types().get(layer.type)
    if not layer.bottom:
        return _SOURCE
    if cls is not None and cls.is_loss:
        return _LOSS
    if layer.type == "Accuracy":
        return _MEASURE
    if "Pooling" in layer.type:
        return _POOLING
    return _PARAMETRIC if _has_filler(cls) else _OTHER


def _has_filler(cls: Any) -> bool:
    """Whether a type has fillers among its settings, and so parameter blobs."""
    settings = cls.settings_in(caffe_pb2.LayerParameter()) if cls is not None else None
    fields = settings.DESCRIPTOR.fields if settings is not None else ()
    return any(field.name.endswith("filler") for field in fields)


def _links(layers: Sequence[Any], shapes: Shapes) -> Iterable[Link]:
    """Yield a link for each bottom; where each phase has its own producer, one for each."""
    makers: dict[str, list[int]] = {}
    for number, layer in enumerate(layers):
        for blob in dict.fromkeys(layer.bottom):
            for maker in makers.get(blob, ()):
                yield Link(maker, number, blob, _label(layers[maker], blob, shapes))
        for top in layer.top:
            ruled = bool(layer.include or layer.exclude) and top not in layer.bottom
            others = [m for m in makers.get(top, ()) if layers[m].include or layers[m].exclude]
            makers[top] = [*(others if ruled else ()), number]


def _label(layer: Any, blob: str, shapes: Shapes) -> str:
    """Return a blob's shape, and its name where it differs from the layer's."""
    known = shapes.get(layer.name, ())
    index = list(layer.top).index(blob)
    shape = " × ".join(map(str, known[index])) if index < len(known) else ""
    called = blob if blob != layer.name and blob not in layer.bottom else ""
    return _short(" ".join(part for part in (called, shape) if part))


def shapes_of(nets: Iterable[Any]) -> dict[str, list[Shape]]:
    """Return the shapes of the tops of each layer that was built, by the layer's name."""
    found: dict[str, list[Shape]] = {}
    for net in nets:
        for node in net.nodes:
            found.setdefault(node.layer.name, node.top_shapes)
    return found


# ---- pycaffe's functions


def get_pydot_graph(
    caffe_net: Any,
    rankdir: str = "LR",
    label_edges: bool = True,
    phase: int | None = None,
    display_lrm: bool = False,
) -> Drawing:
    """Return the graph of a NetParameter of the current format.

    Args:
        caffe_net: the net.
        rankdir: which way it runs: LR, RL, TB or BT.
        label_edges: whether to write the blobs' shapes, as far as they can be known.
        phase: TRAIN or TEST; the layers of both if not given.
        display_lrm: whether to write the learning rate's multipliers.
    """
    phases = [caffe_pb2.TRAIN, caffe_pb2.TEST] if phase is None else [phase]
    nets = {p: filter_net(caffe_net, _state(caffe_net, p)) for p in phases}
    layers = caffe_net.layer if phase is None else nets[phase].layer
    built = [infer_shapes(nets[p], p, None).net for p in phases] if label_edges else []
    shapes = shapes_of(net for net in built if net is not None)
    return Drawing(layers, shapes, rankdir, display_lrm)


def _state(net: Any, phase: int) -> Any:
    return caffe_pb2.NetState(phase=phase, level=net.state.level, stage=net.state.stage)


def draw_net(
    caffe_net: Any,
    rankdir: str = "LR",
    ext: str = "png",
    phase: int | None = None,
    display_lrm: bool = False,
) -> bytes:
    """Return an image of a net; see ``get_pydot_graph`` and ``Drawing.create``."""
    return get_pydot_graph(caffe_net, rankdir, True, phase, display_lrm).create(format=ext)


def draw_net_to_file(
    caffe_net: Any,
    filename: str | PathLike[str],
    rankdir: str = "LR",
    phase: int | None = None,
    display_lrm: bool = False,
) -> None:
    """Write an image of a net in the format that the file's name ends with."""
    get_pydot_graph(caffe_net, rankdir, True, phase, display_lrm).write(filename)

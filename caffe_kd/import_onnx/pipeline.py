"""From an ONNX file to a net's files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..layers import Shape
from ..proto import text
from ..proto.binary import write_weights
from .check import Report, check, net_of
from .convert import convert
from .given import read_input
from .model import read_model
from .train_net import train_net


@dataclass
class Imported:
    """What was written, and what the check found."""

    files: list[Path]
    layers: int
    nodes: int
    report: Report


def import_model(
    path: str | Path,
    output: str | Path,
    *,
    for_caffe: bool = False,
    shapes: Mapping[str, Shape] | None = None,
    given: Sequence[str | Path] = (),
) -> Imported:
    """Write the net that an ONNX model means, after checking it.

    Args:
        path: the model.
        output: begins the names of the files.
        for_caffe: whether only BVLC Caffe's layer types may be used.
        shapes: shapes of inputs that the model leaves open, by name.
        given: files with values for the check.

    Raises:
        NetError: nodes have no layers.
        ExportError: the net's outputs differ from the model's.
        ParseError: the file is not an ONNX model, or not one that may be run.
    """
    model = read_model(path, shapes or {})
    samples = [read_input(file, model) for file in given]
    draft = convert(model, for_caffe)
    stem = Path(output)
    net = net_of(draft, stem.name)
    report = check(net, draft, samples)
    files = [
        stem.with_name(f"{stem.name}{end}")
        for end in ("_deploy.prototxt", "_train_test.prototxt", ".caffemodel")
    ]
    text.write(files[0], net.param)
    text.write(files[1], train_net(net, stem.name))
    write_weights(files[2], net.param, net.weights())
    return Imported(files, len(net.nodes), len(model.proto.graph.node), report)

"""The whole export: from a net's prototxt and its weights to a checked ONNX file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ..core.errors import DataError, ExportError, WeightsError, did_you_mean
from ..core.files import find, replacing
from ..data.backends.idx import IMAGES, read_idx
from ..layers import Shape
from ..net import Net, read_net
from ..net.quantized_values import round_at_source
from ..net.weights import round_as_stored
from ..proto import caffe_pb2 as pb
from ..proto.binary import LayerWeights, read_weights
from .check import Report, check
from .deploy import DeployOptions, deploy, images_of
from .onnx import to_onnx
from .preprocess import Preprocess, preprocess_of, properties_of

_REAL_RECORDS, _REAL_BATCH = 64, 16


@dataclass
class Exported:
    """What an export made.

    Attributes:
        net: the deployed net with its weights.
        model: the ONNX model.
        report: how far the two differ.
        mirrored: inputs whose data layer mirrors at random, which the model does not.
    """

    net: Net
    model: onnx.ModelProto
    report: Report
    mirrored: list[str]


def export_onnx(
    model: str | Path,
    weights: str | Path,
    output: str | Path,
    preprocess: bool = False,
    images: str | Path | None = None,
) -> Exported:
    """Export the net of a prototxt file; see ``export_net``."""
    return export_net(read_net(model), model, weights, output, preprocess, images)


def export_net(
    param: Any,
    file: str | Path | None,
    weights: str | Path,
    output: str | Path,
    preprocess: bool = False,
    images: str | Path | None = None,
    options: DeployOptions | None = None,
) -> Exported:
    """Write the ONNX file of a net; it is put in place only if its outputs equal the net's.

    A model that takes no pixels describes their preprocessing in its ``metadata_props``.

    Args:
        param: the net, train/test or deploy, with the layers of all phases.
        file: where it was read, for relative paths and messages.
        weights: its .caffemodel or .caffemodel.h5.
        output: the file to write.
        preprocess: whether the model takes uint8 pixels and holds the data layer's mean and scale.
        images: an IDX file of images for the check, besides random numbers.
        options: which net is deployed.

    Raises:
        CaffeKDError: the net, the weights or the images are wrong, or the model differs.
    """
    options = options or DeployOptions()
    net = deployed_net(param, file, weights, options)
    layers = images_of(param, options)
    shapes = {name: net.shapes[name] for name in net.inputs}
    known = {blob: layer for blob, layer in layers.items() if blob in shapes}
    wanted = preprocess or (images is not None and known)
    rules = preprocess_of(layers, shapes, lambda path: find(path, file)) if wanted else {}
    samples = list(_samples(images, shapes, rules, preprocess)) if images is not None else []
    inside = rules if preprocess else {}
    with replacing(output) as temporary:
        facts = {} if preprocess else properties_of(known)
        made = to_onnx(net, temporary, inside, properties=facts, outputs=options.outputs)
        report = check(net, made, inside, samples, options.outputs)
    mirrored = [blob for blob, layer in known.items() if layer.transform_param.mirror]
    return Exported(net, made, report, mirrored if preprocess else [])


def deployed_net(
    param: Any, file: str | Path | None, weights: str | Path, options: DeployOptions
) -> Net:
    """Return the deployed net, with its weights.

    Raises:
        ExportError: there is none, or it has a Python layer.
        CaffeKDError: the net or the weights are wrong.
    """
    deployed = deployed_param(param, file, options)
    net = Net(deployed, pb.TEST, file)
    load_all_weights(net, weights)
    return net


def deployed_param(param: Any, file: str | Path | None, options: DeployOptions) -> Any:
    """Return the deployed net as a NetParameter.

    Raises:
        ExportError: there is none, or it has a Python layer.
    """
    deployed = deploy(param, file, options)
    for layer in deployed.layer:
        if layer.type == "Python":
            raise ExportError(
                f"layer '{layer.name}' (Python): its code cannot be exported. Leave it out, and "
                f"all later layers, with -outputs {','.join(layer.bottom)}; or take it out of the "
                "net and give its tops as inputs",
                layer.source_line or None,
            )
    return deployed


def load_all_weights(net: Net, path: str | Path) -> None:
    """Copy weights from a file into a net; see ``copy_all_weights``.

    Layers round their values as the file says, if it is of a quantised net.

    Raises:
        ParseError: the file is not a weights file.
    """
    weights = read_weights(path)
    copy_all_weights(net, weights, str(path))
    round_as_stored(net, weights)
    round_at_source(net)


def copy_all_weights(net: Net, weights: Sequence[LayerWeights], path: str) -> None:
    """Copy weights into a net, whose layers with blobs must all be among them.

    Raises:
        WeightsError: a layer is not in the file, or its blobs differ in number or shape.
    """
    given = {layer.name for layer in weights if layer.blobs}
    for node in net.nodes:
        layer = node.layer
        if layer.blobs and layer.name not in given:
            raise WeightsError(
                f"layer '{layer.name}' ({layer.type}) has no weights in '{path}'."
                f"{did_you_mean(layer.name, given)} Layers there: {', '.join(sorted(given))}",
                layer.proto.source_line or None,
            )
    net.copy_weights(weights, path)


def _samples(
    path: str | Path, shapes: Mapping[str, Shape], rules: Mapping[str, Preprocess], raw: bool
) -> Iterator[dict[str, np.ndarray]]:
    """Yield batches of images as the model takes them: pixels if ``raw``, else transformed."""
    pixels = read_idx(Path(path), IMAGES)[:_REAL_RECORDS, None]
    ((name, shape),) = shapes.items() if len(shapes) == 1 else (("", ()),)
    if shape[1:] != pixels.shape[1:]:
        inputs = ", ".join(f"'{n}' {s[1:]}" for n, s in shapes.items())
        raise DataError(
            f"the images do not fit the net's input. Received: images {pixels.shape[1:]}, "
            f"input {inputs}",
            str(path),
        )
    for start in range(0, len(pixels), _REAL_BATCH):
        batch: Any = pixels[start : start + _REAL_BATCH]
        if not raw:
            batch = rules[name](batch) if name in rules else batch.astype(np.float32)
        yield {name: batch}

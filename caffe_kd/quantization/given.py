"""Ranges from a file, or from a net's quantization_param."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..core.errors import ParseError, UsageError, did_you_mean
from ..core.files import read_bytes
from .float_model import FloatModel
from .plan import Plan
from .thresholds import Histogram

UNSIGNED, SIGNED = 255, 127  # levels of a threshold
_MOST_BYTES = 64 << 20
_HEAD = ["blob", "layer"]
_WEIGHTS = re.compile(r"_param_\d+$")

Row = tuple[int, str, float]  # line, layer or blob, threshold


def given_thresholds(
    param: Any,
    path: str | Path | None,
    source: FloatModel,
    plan: Plan,
    found: Mapping[str, Histogram],
) -> dict[str, float]:
    """Return thresholds by value, as a file or the net gives them.

    A file is ncnn's table, with a scale 127 / threshold for what each layer reads, or the table
    that ``quantize`` prints, with a threshold for each blob. In a net they are Intel's ``scale_in``
    and ``scale_out``, 255 / threshold of what is never negative, else 127 / threshold.

    Args:
        param: the net.
        path: the file; None: the net.
        source: the float model.
        plan: what becomes int8.
        found: the values on calibration samples.

    Raises:
        UsageError: there is no file, and the net has no ranges.
        ParseError: the file is none of the two, or names what the net does not have.
    """
    if path is None:
        thresholds = dict(_of_net(param, plan, found))
        if not thresholds:
            raise UsageError(
                f"GIVEN takes ranges from a file, -ranges FILE, or from the layers' "
                f"quantization_param, and no layer of net '{param.name}' has a scale_in there"
            )
        return thresholds
    lines = read_bytes(path, _MOST_BYTES).decode("utf-8", "replace").splitlines()
    head = next((i for i, line in enumerate(lines) if line.split()[:2] == _HEAD), None)
    if head is None:
        rows, read_by = _ncnn_rows(lines, str(path)), plan.weighted
    else:
        rows, read_by = _printed_rows(lines, head, str(path)), {}
    known = {*(node.layer.name for node in source.net.nodes), *source.net.shapes, *found}
    values = {plan.blob_of(value): value for value in reversed(list(found))}
    result = {}
    for number, name, threshold in rows:
        if name in read_by:
            result[read_by[name].input[0]] = threshold
        elif name in values:
            result[values[name]] = threshold
        elif name not in known:
            raise ParseError(
                f"the net has no layer or blob '{name}'.{did_you_mean(name, known)} "
                f"Blobs: {', '.join(reversed(values))}",
                f"{path}:{number}",
            )
    if not result:
        raise ParseError("has no range of a blob that becomes int8", str(path))
    return result


def _printed_rows(lines: list[str], head: int, path: str) -> Iterator[Row]:
    """Yield the rows of the table that is printed, from the line of its head."""
    column = lines[head].split().index("threshold")
    for number, line in enumerate(lines[head + 1 :], head + 2):
        words = line.split()
        if not words:
            return
        yield number, words[0], _number(words[column : column + 1], path, number)


def _ncnn_rows(lines: list[str], path: str) -> Iterator[Row]:
    """Yield the rows of ncnn's table but for those of weights."""
    for number, line in enumerate(lines, 1):
        words = line.split("//")[0].split()
        if not words or words[0].startswith("#") or _WEIGHTS.search(words[0]):
            continue
        scales = [_number([word], path, number) for word in words[1:] or [""]]
        if any(scales):  # a group that is always 0 has the scale 0
            yield number, words[0], SIGNED / min(scale for scale in scales if scale)


def _number(words: list[str], path: str, line: int) -> float:
    try:
        value = float(words[0])
    except (IndexError, ValueError):
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ParseError(
            "is no table of ranges: a line has a layer or blob and numbers of 0 or more, as "
            f"'conv1 127.0'. Received: '{' '.join(words)}'",
            f"{path}:{line}",
        )
    return value


def _of_net(param: Any, plan: Plan, found: Mapping[str, Histogram]) -> Iterator[tuple[str, float]]:
    """Yield value and threshold of each scale that the layers of a net have."""
    for layer in param.layer:
        settings, node = layer.quantization_param, plan.weighted.get(layer.name)
        if node is None:
            continue
        pairs = [(settings.scale_in, node.input[0])]
        if settings.bw_layer_out < 32:
            pairs.append((settings.scale_out, node.output[0]))
        for scales, value in pairs:
            if scales and scales[0] > 0 and value in found:
                levels = UNSIGNED if found[value].low >= 0 else SIGNED
                yield value, levels / scales[0]

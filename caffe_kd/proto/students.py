"""Several students that are trained together, as one net."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..core.errors import NetError
from . import bundle
from . import caffe_pb2 as pb
from .compose import is_data


def merge(students: Sequence[tuple[str, Any]]) -> Any:
    """Return the net that holds the students side by side on the same data.

    Data layers keep their names and are added once; other layers, their blobs and the names of
    their parameters become ``<student>/<name>``. A layer that changes the data in place writes
    a blob of its student instead.

    Args:
        students: name and net of each, with the layers of all phases.

    Raises:
        NetError: the data layers of two students differ, or one changes the data in place in some
            states only.
    """
    merged = pb.NetParameter()
    merged.CopyFrom(students[0][1])
    merged.name = "+".join(name for name, _ in students)
    del merged.layer[:]
    for _, net in students:
        merged, _ = bundle.join(merged, [layer for layer in net.layer if is_data(layer)])
    shared = {top for layer in merged.layer for top in layer.top}
    for name, net in students:
        if net.state != students[0][1].state:
            raise NetError(
                f"the students '{students[0][0]}' and '{name}' have nets of different state. Give "
                "both the same"
            )
        merged.layer.extend(_layers_of(name, net, shared))
    return merged


def _layers_of(student: str, net: Any, shared: set[str]) -> list[Any]:
    prefix = f"{student}/"
    own = set(shared)  # blobs that are still shared
    layers = []
    for layer in net.layer:
        if is_data(layer):
            continue
        bottoms = [b if b in own or not b else prefix + b for b in layer.bottom]
        changed = own.intersection(layer.top)
        if changed and (layer.include or layer.exclude):
            raise NetError(
                f"layer '{layer.name}' changes '{min(changed)}', which the students share, in some "
                "states only. Give its top another name",
                layer.source_line or None,
            )
        own -= changed
        copy = renamed(layer, lambda name: prefix + name)
        copy.bottom[:] = bottoms
        layers.append(copy)
    return layers


def renamed(layer: Any, rename: Callable[[str], str]) -> Any:
    """Return a layer with its name and those of its blobs and parameters changed."""
    copy = pb.LayerParameter()
    copy.CopyFrom(layer)
    copy.name = rename(layer.name)
    copy.bottom[:] = [rename(b) if b else b for b in layer.bottom]
    copy.top[:] = [rename(t) for t in layer.top]
    for spec in copy.param:
        if spec.name:
            spec.name = rename(spec.name)
    return copy

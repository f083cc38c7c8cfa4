"""Samples for a deployed net, from the data layers of its train/test net."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.errors import DataError, NetError, did_you_mean
from ..layers import Shape
from ..net import Net
from ..proto import caffe_pb2 as pb
from ..proto.filter import filter_net
from ..proto.sources import Source, source_of_layer

PHASES = {pb.TRAIN: "TRAIN", pb.TEST: "TEST"}
# Of a set whose size is not known; what `caffe test` takes.
_MOST_BATCHES = 50


@dataclass
class Samples:
    """The samples that data layers bring, in their order and always the same.

    Attributes:
        net: the data layers alone, in phase TEST: no random crop, mirror or order.
        inputs: the blobs that are the deployed net's inputs.
        name: what they are of, for tables.
        batch: how many samples a batch has.
        count: how many there are; 0: unknown.
    """

    net: Net
    inputs: list[str]
    name: str
    batch: int
    count: int

    def next(self) -> dict[str, np.ndarray]:
        """Return all blobs of the next batch."""
        with torch.no_grad():
            self.net()
        return {name: blob.cpu().numpy() for name, blob in self.net.blobs.items()}

    def once(self, iterations: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """Yield every sample once, in batches, from where the layers stand.

        Args:
            iterations: how many batches at most; 0: all, of a set of unknown size 50.
        """
        left = self.count or _MOST_BATCHES * self.batch
        left = min(left, iterations * self.batch) if iterations else left
        while left > 0:
            batch = self.next()
            yield {name: values[:left] for name, values in batch.items()}
            left -= self.batch


def samples_of(
    param: Any,
    file: str | Path | None,
    state: Any,
    inputs: Mapping[str, Shape],
    name: str = "",
) -> Samples:
    """Return the samples of a net's data layers in a state; they transform as in phase TEST.

    Args:
        param: the net with the layers of all phases.
        file: where it was read.
        state: its NetState, whose phase chooses the data layers.
        inputs: the shapes of the deployed net's inputs, batch included.
        name: what they are called in tables; the net's file and phase unless given.

    Raises:
        DataError: no data layer brings an input, or its samples have another shape.
        CaffeKDError: the data is absent or damaged.
    """
    phase = PHASES[state.phase]
    where = str(file) if file else f"net '{param.name}'"
    layers = [_steady(x) for x in filter_net(param, state).layer if _brings_samples(x)]
    made = [top for layer in layers for top in layer.top]
    for blob in inputs:
        if blob not in made:
            raise DataError(
                f"no data layer brings '{blob}' in phase {phase}, so there are no samples to run. "
                f"Give the train/test net with its data layers.{did_you_mean(blob, made)}",
                where,
            )
    needed = [layer for layer in layers if not inputs.keys().isdisjoint(layer.top)]
    net = Net(pb.NetParameter(name=param.name, layer=needed), pb.TEST, file)
    for blob, shape in inputs.items():
        if net.shapes[blob][1:] != shape[1:]:
            raise DataError(
                f"the samples of '{blob}' in phase {phase} do not fit the net. Received: "
                f"{net.shapes[blob][1:]}. Expected: {shape[1:]}",
                where,
            )
    batch = net.shapes[next(iter(inputs))][0]
    counts = [getattr(node.layer, "sample_count", 0) for node in net.nodes]
    return Samples(net, list(inputs), name or f"{Path(where).name} {phase}", batch, min(counts))


def brings(param: Any, state: Any, inputs: Collection[str]) -> bool:
    """Return whether data layers bring all of these blobs in a state."""
    layers = [x for x in filter_net(param, state).layer if _brings_samples(x)]
    return {top for layer in layers for top in layer.top}.issuperset(inputs)


def _brings_samples(layer: Any) -> bool:
    return source_of_layer(layer) in (Source.SAMPLES, Source.VALUES)


def _steady(layer: Any) -> Any:
    """Return a data layer that gives the same samples in the same order each time."""
    copy = pb.LayerParameter()
    copy.CopyFrom(layer)
    for rule in ("include", "exclude"):
        copy.ClearField(rule)
    copy.phase = pb.TEST
    copy.transform_param.ClearField("mirror")
    if not copy.transform_param.ListFields():
        copy.ClearField("transform_param")  # HDF5Data takes none
    for name in ("image_data_param", "hdf5_data_param"):
        if copy.HasField(name):
            getattr(copy, name).ClearField("shuffle")
    for name in ("image_data_param", "data_param"):
        if copy.HasField(name):
            getattr(copy, name).ClearField("rand_skip")
    return copy


def accuracy_blobs(param: Any, state: Any) -> tuple[str, str, int | None] | None:
    """Return the scores' blob, the labels' and the label to ignore of a net's last Accuracy.

    Raises:
        NetError: the layer has no label.
    """
    found = [x for x in filter_net(param, state).layer if x.type == "Accuracy"]
    found = [x for x in found if x.accuracy_param.top_k == 1] or found
    if not found:
        return None
    layer = found[-1]
    if len(layer.bottom) != 2:
        raise NetError(f"layer '{layer.name}' (Accuracy): takes 2 bottoms", layer.source_line)
    settings = layer.accuracy_param
    ignored = settings.ignore_label if settings.HasField("ignore_label") else None
    return layer.bottom[0], layer.bottom[1], ignored

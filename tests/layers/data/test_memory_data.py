from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.layers.data.memory_data import MemoryData
from caffe_kd.net import Net
from tests.helpers import make_net

EXTENTS = "batch_size: 2 channels: 1 height: 2 width: 3"


def memory_net(sizes: str = EXTENTS, extra: str = "") -> tuple[Net, MemoryData]:
    net = make_net(
        f'layer {{ name: "m" type: "MemoryData" top: "data" top: "label" {extra}'
        f" memory_data_param {{ {sizes} }} }}"
    )
    layer = net.nodes[0].layer
    assert isinstance(layer, MemoryData)
    return net, layer


def records(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples whose values and labels say which sample they are."""
    labels = np.arange(count, dtype=np.float32)
    return labels[:, None, None, None] * np.ones((1, 1, 2, 3), np.float32), labels


def labels_of(net: Net, batches: int) -> list[float]:
    labels: list[float] = []
    for _ in range(batches):
        net()
        assert net.blobs["data"].shape == (2, 1, 2, 3)
        assert torch.equal(net.blobs["data"][:, 0, 1, 2], net.blobs["label"])
        labels += net.blobs["label"].tolist()
    return labels


def test_records_come_in_order_and_start_over() -> None:
    net, layer = memory_net()
    assert net.shapes == {"data": (2, 1, 2, 3), "label": (2,)}
    layer.set(*records(6))
    assert labels_of(net, 5) == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]


def test_new_records_are_given_from_their_first() -> None:
    net, layer = memory_net()
    layer.set(*records(6))
    labels_of(net, 2)
    layer.set(*records(4))
    assert labels_of(net, 2) == [0, 1, 2, 3]


def test_arrays_of_other_types_and_label_shapes_are_taken_as_float32() -> None:
    net, layer = memory_net()
    images, labels = records(2)
    frozen = images.astype(np.uint8)
    frozen.flags.writeable = False
    layer.set(frozen, labels.astype(np.int64).reshape(2, 1, 1, 1))
    assert labels_of(net, 1) == [0, 1]
    assert net.blobs["data"].dtype == net.blobs["label"].dtype == torch.float32


def test_use_before_set_says_what_to_do() -> None:
    net, _ = memory_net()
    wanted = r"net.prototxt:1: layer 'm' \(MemoryData\): MemoryDataLayer needs to be initialized by"
    with pytest.raises(NetError, match=wanted + r" calling Reset.*set\(images, labels\)"):
        net()


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ((3, 1, 2, 3), (3,), "num must be a multiple of batch size. Received: num=3, batch_size=2"),
        ((0, 1, 2, 3), (0,), "num must be a multiple of batch size"),
        ((4, 1, 2, 3), (2,), "data and labels must have the same first dimension"),
        ((4, 1, 3, 2), (4,), r"images must be \[N, channels, height, width\]"),
        ((4, 6), (4,), r"images must be \[N, channels, height, width\]"),
        ((), (), r"images must be \[N, channels, height, width\]"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    images: tuple[int, ...], labels: tuple[int, ...], message: str
) -> None:
    _, layer = memory_net()
    with pytest.raises(NetError, match=message):
        layer.set(np.zeros(images, np.float32), np.zeros(labels, np.float32))


@pytest.mark.parametrize(
    "sizes", ["", EXTENTS.replace(" width: 3", ""), EXTENTS.replace("batch_size: 2", "")]
)
def test_missing_extent_is_refused_with_its_line(sizes: str) -> None:
    with pytest.raises(NetError, match=r"net.prototxt:1: .*must be specified and positive"):
        memory_net(sizes)


def test_transform_param_is_reported_to_change_nothing() -> None:
    net, layer = memory_net(extra="transform_param { scale: 2 }")
    notes: list[str] = []
    net.context.notify = notes.append
    layer.set(*records(2))
    assert labels_of(net, 1) == [0, 1]
    assert notes == ["layer 'm': MemoryData does not transform array data"]


def test_state_goes_on_at_the_next_record() -> None:
    net, layer = memory_net()
    layer.set(*records(6))
    labels_of(net, 2)
    other_net, other = memory_net()
    other.set(*records(6))
    other.restore(layer.state())
    assert labels_of(other_net, 2) == labels_of(net, 2) == [4, 5, 0, 1]


def test_state_that_lies_beyond_the_records_is_refused() -> None:
    net, layer = memory_net()
    layer.set(*records(6))
    labels_of(net, 2)
    _, other = memory_net()
    other.set(*records(4))
    with pytest.raises(ValueError, match="has 4 samples, but the state is at sample 4"):
        other.restore(layer.state())

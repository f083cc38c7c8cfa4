from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from caffe_kd.net import load_net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto.binary import write_weights
from tests.doctor.examining import INPUT, IP, LOSS, found, write

NET = f"""name: "n" {INPUT}
layer {{ name: "bn" type: "BatchNorm" bottom: "data" top: "data" }}
layer {{ name: "s" type: "Scale" bottom: "data" top: "data" }}
{IP}{LOSS}"""


def examined(folder: Path, check: str, weights: Mapping[str, list[np.ndarray]], net=NET):
    """Write weights for NET, some of them changed, and return what a check finds in them."""
    path = write(folder, net=NET)
    built = load_net(path, pb.TEST)
    values = built.weights()
    values["bn"][2][:] = 1
    values["bn"][1][:] = 1
    param = pb.NetParameter()
    param.CopyFrom(built.param)
    for name in weights:
        if name not in values:
            param.layer.add(name=name, type="InnerProduct")
    write_weights(folder / "w.caffemodel", param, {**values, **weights})
    path = write(folder, examined=net)
    return found(path, check, weights=str(folder / "w.caffemodel"))


def zeros(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    return [np.zeros(shape, np.float32) for shape in shapes]


BN = ((3,), (3,), (1,))
NEGATIVE = [np.zeros(3, np.float32), np.full(3, -1, np.float32), np.ones(1, np.float32)]
CASES = [
    ("weights_do_not_fit", "error", "shape mismatch", {"ip": zeros((5, 9), (5,))}),
    ("weights_do_not_fit", "error", "0 in the file, 2 in the net", {"ip": []}),
    ("weights_without_layer", "note", "no layer for the weights of 'more'", {"more": zeros((2,))}),
    (
        "weights_not_finite",
        "error",
        "blob 1 is not finite",
        {"ip": [np.ones((5, 243), np.float32), np.full(5, np.inf, np.float32)]},
    ),
    ("weights_all_zero", "warning", "'ip': every weight is 0", {"ip": zeros((5, 243), (5,))}),
    ("statistics_never_collected", "error", "its scale factor, blob 2, is 0", {"bn": zeros(*BN)}),
    ("negative_variance", "error", "a variance is -1", {"bn": NEGATIVE}),
]


@pytest.mark.parametrize(("check", "severity", "words", "weights"), CASES)
def test_check_speaks_of_such_weights_and_is_silent_on_others(
    tmp_path: Path, check: str, severity: str, words: str, weights: Mapping[str, list[np.ndarray]]
) -> None:
    occurrences = examined(tmp_path, check, weights)
    assert any(s == severity and words in what for s, what in occurrences), occurrences
    assert examined(tmp_path, check, {}) == []


def test_layers_without_weights(tmp_path: Path) -> None:
    renamed = NET.replace('name: "ip"', 'name: "new"')
    assert examined(tmp_path, "layers_without_weights", {}, renamed) == [
        ("warning", "no weights for 'new'")
    ]
    assert examined(tmp_path, "layers_without_weights", {}) == []


def test_batch_norm_in_train_does_not_use_the_factor(tmp_path: Path) -> None:
    trained = NET.replace('type: "BatchNorm"', 'type: "BatchNorm" phase: TRAIN')
    only_train = trained.replace('name: "in"', 'name: "in" include { phase: TRAIN }')
    occurrences = examined(tmp_path, "statistics_never_collected", {"bn": zeros(*BN)}, only_train)
    assert occurrences == []


def test_stored_statistics_come_from_weights(tmp_path: Path) -> None:
    frozen = NET.replace(
        'type: "BatchNorm"', 'type: "BatchNorm" batch_norm_param { use_global_stats: true }'
    )
    assert examined(tmp_path, "stored_statistics_in_train", {}, frozen) == []
    renamed = frozen.replace('name: "bn"', 'name: "other"')
    ((severity, _),) = examined(tmp_path, "stored_statistics_in_train", {}, renamed)
    assert severity == "warning"

"""Labels that are no whole numbers: BVLC Caffe casts them, and so do we, but not silently."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from tests.helpers import inputs_text, make_net

TYPES = ["Accuracy", "SoftmaxWithLoss", "HingeLoss", "MultinomialLogisticLoss"]


def lines_of(kind: str, labels: list[float], passes: int = 2) -> list[str]:
    net = make_net(
        inputs_text((3, 4), (3,)) + f'layer {{ name: "l" type: "{kind}" bottom: "x0" bottom: "x1" '
        'top: "y" }'
    )
    lines: list[str] = []
    net.context.notify = lines.append
    scores = torch.full((3, 4), 0.25)
    for _ in range(passes):
        net.forward({"x0": scores, "x1": torch.tensor(labels)})
    return lines


@pytest.mark.parametrize("kind", TYPES)
def test_fraction_of_a_label_is_reported_once(kind: str) -> None:
    (line,) = lines_of(kind, [0, 2.5, 1.5])
    assert line.startswith(f"Warning: layer 'l' ({kind}) takes the label 2.5 as 2: ")


@pytest.mark.parametrize("kind", TYPES)
def test_whole_labels_are_not_mentioned(kind: str) -> None:
    assert lines_of(kind, [0, 2, 3]) == []


def test_fraction_far_down_in_an_hdf5_file_is_reported_with_the_first_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    labels = np.zeros(100)
    labels[90] = 0.5
    with h5py.File("a.h5", "w") as file:
        file["data"], file["label"] = np.zeros((100, 4)), labels
    Path("list").write_text("a.h5")
    net = make_net(
        'layer { name: "d" type: "HDF5Data" top: "data" top: "label" '
        'hdf5_data_param { source: "list" batch_size: 2 } }'
        'layer { name: "l" type: "SoftmaxWithLoss" bottom: "data" bottom: "label" top: "loss" }'
    )
    lines: list[str] = []
    net.context.notify = lines.append
    net.forward()
    (line,) = lines
    assert "layer 'l' (SoftmaxWithLoss) takes the label 0.5 as 0" in line

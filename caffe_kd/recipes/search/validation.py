"""Splitting off a part of the training samples for validation, in place of the test samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import SolverError
from ...core.files import find
from ...data.backends import open_source
from ...data.source import SampleSource
from ...proto import caffe_pb2 as pb
from ...proto.filter import is_included
from ..run_files import batch_for

STAGE = "validation"
SHARE = 10  # one sample in so many is for validation
_FROM_FILES = {"Data", "HDF5Data", "ImageData", "WindowData"}  # layers that read files
_CHECKED_LABELS = 1000  # how many are read to check that all classes are present


class Split:
    """Splits a net's training samples: the last tenth is for validation, the rest for training.

    Args:
        net: the student's NetParameter with the layers of all phases.
        train: the NetState of training.
        test: the NetState of testing.
        file: the net's file.
        notify: prints a line for the user.

    Attributes:
        net: the net that is trained on the rest and tested only on the tenth.
        batches: how many batches use each sample of the tenth once.

    Raises:
        SolverError: the samples cannot be split.
        DataError: the samples are missing or damaged.
    """

    def __init__(
        self, net: Any, train: Any, test: Any, file: Path, notify: Callable[[str], None]
    ) -> None:
        self._file = file
        self._notify = notify
        self._test_layers = [x for x in net.layer if x.type == "Data" and is_included(x, test)]
        self.batches = 0
        self.net = pb.NetParameter()
        self.net.CopyFrom(net)
        del self.net.layer[:]
        for layer in net.layer:
            if layer.type not in _FROM_FILES:
                self.net.layer.append(layer)
            elif is_included(layer, train):
                self.net.layer.extend(self._two(layer))
        if not self.batches:
            raise SolverError(_advice(net.name, "has no layer of type Data in phase TRAIN"))

    def _two(self, layer: Any) -> tuple[Any, Any]:
        """Return the layers of the training and the validation samples."""
        if layer.type != "Data":
            raise SolverError(
                _advice(f"layer '{layer.name}' ({layer.type})", "cannot select some samples"),
                layer.source_line or None,
            )
        first, count = layer.data_param.first, self._count(layer)
        validated = count // SHARE
        validated -= validated % 100 if validated >= 100 else 0  # so that batches of 100 fit
        if validated < 1:
            raise SolverError(
                f"layer '{layer.name}' (Data): {count} samples cannot be split: the last tenth is "
                "empty",
                layer.source_line or None,
            )
        training, validating = pb.LayerParameter(), pb.LayerParameter()
        training.CopyFrom(layer)
        training.data_param.count = count - validated
        if not layer.include:
            training.ClearField("exclude")
            training.include.add(phase=pb.TRAIN)
        validating.CopyFrom(self._test_layer(layer))
        validating.data_param.CopyFrom(layer.data_param)
        validating.data_param.first = first + count - validated
        validating.data_param.count = validated
        validating.transform_param.ClearField("mirror")  # it is random in TEST too
        validating.ClearField("exclude")
        del validating.include[:]
        validating.include.add(phase=pb.TEST)
        kept = self._open(validating.data_param)
        validating.data_param.batch_size = batch_for(len(kept))
        self.batches = max(self.batches, len(kept) // validating.data_param.batch_size)
        self._check_classes(layer.name, self._open(training.data_param), kept)
        return training, validating

    def _test_layer(self, layer: Any) -> Any:
        """Return the layer with the same tops in phase TEST, for its transformation."""
        return next((x for x in self._test_layers if list(x.top) == list(layer.top)), layer)

    def _count(self, layer: Any) -> int:
        """Return the number of samples in a layer's range, of all classes."""
        param = pb.DataParameter()
        param.CopyFrom(layer.data_param)
        del param.leave_out[:]
        return len(self._open(param))

    def _open(self, data_param: Any) -> SampleSource:
        return open_source(data_param, lambda path: find(path, self._file))

    def _check_classes(self, name: str, training: SampleSource, kept: SampleSource) -> None:
        trained = _some_labels(training)
        lacking = trained - _some_labels(kept)
        if len(lacking) > len(trained) / 2:
            several = ", ".join(map(str, sorted(lacking)[:10]))
            self._notify(
                f"layer '{name}': the last tenth of the samples has none of the labels {several}"
                f"{', ...' if len(lacking) > 10 else ''}: validation is unreliable unless they are "
                "shuffled"
            )


def _some_labels(samples: SampleSource) -> set[int]:
    numbers = np.unique(np.linspace(0, len(samples) - 1, _CHECKED_LABELS).astype(int))
    return {samples.label(int(number)) for number in numbers}


def _advice(subject: str, fact: str) -> str:
    return (
        f"{subject} {fact}, so no samples can be split off for validation. Give the net a "
        f'data layer with include {{ phase: TEST stage: "{STAGE}" }} and the solver a test_state '
        f'{{ stage: "{STAGE}" }}'
    )

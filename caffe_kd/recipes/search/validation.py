"""A part of the training records that validates, in place of the test records."""

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
SHARE = 10  # one record in so many validates
_RECORDS = {"Data", "HDF5Data", "ImageData", "WindowData"}  # layers that give records of files
_LOOKED_AT = 1000  # labels that are read to see whether all classes are there


class Split:
    """Splits the records a net is trained on: the last tenth validates, the rest trains.

    Args:
        net: the student's NetParameter with the layers of all phases.
        train: the NetState it is trained in.
        test: the NetState it is tested in.
        file: where it was read.
        notify: takes what the user should know.

    Attributes:
        net: the net that trains on the rest and is tested on the tenth, and on nothing else.
        batches: how many batches show the tenth once.

    Raises:
        SolverError: the records cannot be split.
        DataError: the records are missing or damaged.
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
            if layer.type not in _RECORDS:
                self.net.layer.append(layer)
            elif is_included(layer, train):
                self.net.layer.extend(self._two(layer))
        if not self.batches:
            raise SolverError(_advice(net.name, "has no layer of type Data in phase TRAIN"))

    def _two(self, layer: Any) -> tuple[Any, Any]:
        """Return the layers of the records that train and of those that validate."""
        if layer.type != "Data":
            raise SolverError(
                _advice(f"layer '{layer.name}' ({layer.type})", "gives no part of its records"),
                layer.source_line or None,
            )
        first, count = layer.data_param.first, self._count(layer)
        held = count // SHARE
        held -= held % 100 if held >= 100 else 0  # so that batches of 100 fit
        if held < 1:
            raise SolverError(
                f"layer '{layer.name}' (Data): {count} records cannot be split: the last tenth is "
                "empty",
                layer.source_line or None,
            )
        training, validating = pb.LayerParameter(), pb.LayerParameter()
        training.CopyFrom(layer)
        training.data_param.count = count - held
        if not layer.include:
            training.ClearField("exclude")
            training.include.add(phase=pb.TRAIN)
        validating.CopyFrom(self._test_layer(layer))
        validating.data_param.CopyFrom(layer.data_param)
        validating.data_param.first = first + count - held
        validating.data_param.count = held
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
        """Return the layer that makes the same blobs in phase TEST, for how it transforms."""
        return next((x for x in self._test_layers if list(x.top) == list(layer.top)), layer)

    def _count(self, layer: Any) -> int:
        """Return how many records a layer's range has, those of all classes."""
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
                f"layer '{name}': the last tenth of the records has none of the labels {several}"
                f"{', ...' if len(lacking) > 10 else ''}: it says little unless they are shuffled"
            )


def _some_labels(records: SampleSource) -> set[int]:
    numbers = np.unique(np.linspace(0, len(records) - 1, _LOOKED_AT).astype(int))
    return {records.label(int(number)) for number in numbers}


def _advice(subject: str, fact: str) -> str:
    return (
        f"{subject} {fact}, so nothing can be held back from it for validation. Give the net a "
        f'data layer with include {{ phase: TEST stage: "{STAGE}" }} and the solver a test_state '
        f'{{ stage: "{STAGE}" }}'
    )

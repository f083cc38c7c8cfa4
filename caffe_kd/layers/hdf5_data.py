"""HDF5Data: rows of HDF5 files."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..data.hdf5 import HDF5Rows
from ..errors import DataError
from .base import Shape, register
from .records import Indices, RecordLayer


@register("HDF5Data", param="hdf5_data_param", bottoms=0, tops=(1, None))
class HDF5Data(RecordLayer):
    """Give rows of the HDF5 files that ``source`` lists, file after file, starting over at the end.

    Tops: for each dataset named like the top, (batch_size, row's axes...), float32.

    Raises:
        NetError: batch_size is 0, or a transform_param is given, which this layer refuses.
        DataError: a file or dataset is missing or damaged.

    Source: Caffe's HDF5DataLayer. With ``shuffle`` the files and the rows of each are shuffled
    anew in every pass, here by random numbers that ``random_seed`` rules, as it does not there.
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        if self.param.batch_size < 1:
            self.fail("batch_size must be at least 1", batch_size=self.param.batch_size)
        if self.proto.HasField("transform_param"):
            self.fail("HDF5Data does not transform data: leave transform_param out")
        try:
            self.rows = HDF5Rows(self.find(self.param.source), list(self.proto.top))
        except DataError as error:
            raise DataError(
                f"layer '{self.name}' ({self.type}): {error}", self.proto.source_line or None
            ) from None
        self.seed()
        self.order = self._new_order()

    def _new_order(self) -> np.ndarray:
        return self.rows.order(self.generator if self.param.shuffle else None)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return [(self.param.batch_size, *shape) for shape in self.rows.row_shapes]

    @property
    def record_count(self) -> int:
        return len(self.rows)

    @property
    def deterministic(self) -> bool:
        return True

    def next_indices(self) -> Indices:
        taken: list[np.ndarray] = []
        missing = self.param.batch_size
        while missing:
            part = self.order[self.position : self.position + missing]
            taken.append(part)
            missing -= len(part)
            self.position += len(part)
            if self.position == len(self.order):
                self.position = 0
                self.order = self._new_order()
        return np.concatenate(taken)

    def read(self, indices: Indices) -> tuple[Tensor, ...]:
        if isinstance(indices, slice):
            indices = np.arange(*indices.indices(len(self.rows)))
        tops = self.rows.read(indices)
        return tuple(torch.from_numpy(top).to(self.context.device) for top in tops)

    def state(self) -> dict[str, np.ndarray]:
        return {**super().state(), "order": self.order}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        super().restore(state)
        self.order = state["order"]

"""HDF5Data: rows of HDF5 files."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from ...data.hdf5 import HDF5Rows
from ...data.source import DIGESTED_IMAGES, digest, spread
from ..base import Shape, register
from ..shared.sample_layer import Indices, OrderedSampleLayer


@register("HDF5Data", param="hdf5_data_param", bottoms=0, tops=(1, None))
class HDF5Data(OrderedSampleLayer):
    """Read rows of the HDF5 files that ``source`` lists, file after file, starting over at the end.

    Tops: for each dataset named like the top, (batch_size, row's axes...), float32.

    Raises:
        NetError: batch_size is 0, or a transform_param is given, which this layer refuses.
        DataError: a file or dataset is missing or damaged.

    Source: Caffe's HDF5DataLayer. With ``shuffle`` the files and the rows of each are shuffled
    again in every pass; here, unlike there, ``random_seed`` makes their order reproducible.

    Sample::

        layer {
          name: "data"
          type: "HDF5Data"
          top: "data"  # (4, 10)
          top: "label"  # (4)
          hdf5_data_param { source: "train_h5_list.txt" batch_size: 4 shuffle: true }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        if self.param.batch_size < 1:
            self.fail("batch_size must be at least 1", batch_size=self.param.batch_size)
        if self.proto.HasField("transform_param"):
            self.fail("HDF5Data does not transform data: leave transform_param out")
        with self.opening():
            self.rows = HDF5Rows(self.find(self.param.source), list(self.proto.top))
        for top in self.proto.top:
            self.context.in_memory[top] = partial(self._in_memory, top)
        self.seed()
        self.begin_pass()

    def _in_memory(self, top: str) -> Tensor:
        return torch.from_numpy(self.rows.in_memory(top))

    def new_order(self) -> np.ndarray:
        return self.rows.order(self.generator if self.param.shuffle else None)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return [(self.param.batch_size, *shape) for shape in self.rows.row_shapes]

    @property
    def sample_count(self) -> int:
        return len(self.rows)

    @property
    def deterministic(self) -> bool:
        return True

    @property
    def depth(self) -> int:
        # Rows of the file in memory are quick to read; the next file is not.
        return self.proto.data_param.prefetch if self.rows.file_count > 1 else 0

    def digests(self) -> dict[str, str]:
        # Of the first file only: reading all may take long.
        rows = np.array(spread(self.rows.first_count, DIGESTED_IMAGES))
        tops = zip(self.proto.top, self.rows.read(rows), strict=True)
        return {f"'{name}'": digest(values) for name, values in tops}

    def load(self, indices: Indices) -> tuple[Tensor, ...]:
        if isinstance(indices, slice):
            indices = np.arange(*indices.indices(len(self.rows)))
        return tuple(torch.from_numpy(top) for top in self.rows.read(indices))

"""Data: records of an LMDB or of IDX files."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..data.source import into_memory, open_source
from ..data.transformer import Transformer
from ..errors import DataError
from .base import Shape, register
from .records import Indices, RecordLayer


@register("Data", param="data_param", bottoms=0, tops=(1, 2))
class Data(RecordLayer):
    """Give the records of a database in their order, starting over after the last.

    Tops: data (batch_size, C, H, W), transformed as ``transform_param`` says; label (batch_size),
    whole numbers from 0.

    Raises:
        NetError: batch_size is 0 or the transformation does not suit the records.
        DataError: the database is missing or damaged.

    Source: Caffe's DataLayer. ``rand_skip`` is ignored there and here. Records that are stored raw
    and fit are kept in memory as bytes.
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param
        if param.batch_size < 1:
            self.fail("batch_size must be at least 1", batch_size=param.batch_size)
        transform = self.proto.transform_param
        colour = True if transform.force_color else False if transform.force_gray else None
        try:
            self.records = into_memory(open_source(param, self.find, colour))
            self.transformer = Transformer(transform, self.is_training, self.find)
            image, _ = self.records.read(0)
            self.record_shape = self.transformer.output_shape(image.shape)
        except DataError as error:
            self._fail_with(error)
        self.seed()

    def _fail_with(self, error: DataError) -> None:
        raise DataError(
            f"layer '{self.name}' ({self.type}): {error}", self.proto.source_line or None
        ) from None

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        batch = self.param.batch_size
        shapes: list[Shape] = [(batch, *self.record_shape), (batch,)]
        return shapes[: len(self.proto.top)]

    @property
    def record_count(self) -> int:
        return len(self.records)

    @property
    def deterministic(self) -> bool:
        return self.transformer.deterministic

    def next_indices(self) -> Indices:
        start, total = self.position, len(self.records)
        end = start + self.param.batch_size
        if end >= total:
            self.context.notify("Restarting data prefetching from start.")
        self.position = end % total
        return slice(start, end) if end <= total else np.arange(start, end) % total

    def read(self, indices: Indices) -> tuple[Tensor, ...]:
        images, labels = self.records.batch(indices)
        data = self.transformer(images, self.generator)
        tops = (data, torch.from_numpy(labels).to(data.dtype))
        return tuple(top.to(self.context.device) for top in tops[: len(self.proto.top)])

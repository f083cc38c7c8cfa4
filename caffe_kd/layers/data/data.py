"""Data: samples of an LMDB, a LevelDB or IDX files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from ...data.backends import open_source
from ...data.source import MemorySamples, into_memory
from ...data.stand_in import origin_of
from ..base import Shape, register
from ..shared.sample_layer import ImageLayer, Indices

# From this many values per batch on, a thread to crop, mirror and subtract pays off: about 2 ms.
THREAD_PAYS = 1 << 21


@register("Data", param="data_param", bottoms=0, tops=(1, 3))
class Data(ImageLayer):
    """Read the samples of a database in order, starting over after the last.

    Tops: data (batch_size, C, H, W), transformed as ``transform_param`` says; label (batch_size),
    whole numbers from 0; the samples' numbers (batch_size), from 0, for layers that store something
    for each sample. Images of several sizes need a crop_size, or a batch_size of 1, which then
    makes blobs of several sizes. ``first``, ``count`` and ``leave_out`` select a subset of the
    samples; numbers then count within it.

    Raises:
        NetError: batch_size is 0, the transformation does not fit the samples, or there are too
            many of them to be numbered.
        DataError: the database is missing or damaged, or lacks selected samples.

    Source: Caffe's DataLayer, which has no third top. ``rand_skip`` is ignored there and here.
    ``force_encoded_color``, which its last version ignores, means force_color, as before. Samples
    that fit are kept in memory as bytes, encoded ones decoded. A thread prefetches ``prefetch``
    batches, unless raw samples are in memory and the transformation is so fast that it would not
    pay off.

    Sample::

        layer {
          name: "data"
          type: "Data"
          top: "data"  # (4, 1, 28, 28)
          top: "label"  # (4)
          transform_param { scale: 0.00390625 }
          data_param { source: "train_lmdb" backend: LMDB batch_size: 4 }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param
        if param.batch_size < 1:
            self.fail("batch_size must be at least 1", batch_size=param.batch_size)
        with self.opening():
            self.samples = into_memory(open_source(param, self.find, self._colour()))
            self.transform_as(first=0)
        self.seed()
        origin = origin_of(Path(self.samples.name))
        if origin is not None:
            self.log(f"layer '{self.name}': {self.samples.name} is of {origin.what}")
        if self._colour() is not None and not self.samples.encoded:
            self.log(f"layer '{self.name}': force_color and force_gray only for encoded datum")

    def _colour(self) -> bool | None:
        """Return whether encoded images become BGR (True) or grey (False)."""
        transform = self.proto.transform_param
        force_color = transform.force_color or self.param.force_encoded_color
        if force_color and transform.force_gray:
            self.fail("cannot set both force_color and force_gray")
        return True if force_color else False if transform.force_gray else None

    @property
    def depth(self) -> int:
        values = self.param.batch_size * math.prod(self.sample_shape)
        quick = self.transformer.only_scales or values < THREAD_PAYS
        return 0 if quick and isinstance(self.samples, MemorySamples) else self.param.prefetch

    def next_indices(self) -> Indices:
        start, total = self.position, len(self.samples)
        end = start + self.param.batch_size
        if end >= total:
            self.log("Restarting data prefetching from start.")
        self.position = end % total
        return slice(start, end) if end <= total else np.arange(start, end) % total

"""ImageData: image files from a list."""

from __future__ import annotations

import numpy as np
import torch

from ...data.image_list import ImageListSamples, read_list
from ...data.source import into_memory
from ..base import Shape, register
from ..shared.sample_layer import ImageLayer, Indices, OrderedSampleLayer


@register("ImageData", param="image_data_param", bottoms=0, tops=(1, 3))
class ImageData(ImageLayer, OrderedSampleLayer):
    """Read the images that ``source`` lists, one "path label" a line, starting over at the end.

    With ``shuffle`` each pass has another order. ``new_height`` and ``new_width`` resize the images
    as cv::resize does.

    Tops: data (batch_size, C, H, W), C being 3 (blue, green, red) or without ``is_color`` 1,
    transformed as ``transform_param`` says; label (batch_size), whole numbers; the images'
    positions in the list (batch_size), from 0, for layers that store something for each sample.
    Images of several sizes need a crop_size, or a batch_size of 1, which then makes blobs of
    several sizes.

    Raises:
        NetError: batch_size is 0, one of new_height and new_width is missing, or there are not
            enough images to skip.
        DataError: the list or an image is missing or damaged; the message names the list's line.

    Source: Caffe's ImageDataLayer, which has no third top. Paths are also looked up beside the
    list. The order and ``rand_skip`` follow from ``random_seed``. Decoded images are kept
    in memory as bytes, up to 2 GB or a quarter of what there is, so that later passes over a set
    that fits need no decoding. A thread prefetches ``data_param { prefetch }`` batches.

    Sample::

        layer {
          name: "data"
          type: "ImageData"
          top: "data"  # (4, 3, 32, 32)
          top: "label"  # (4)
          image_data_param { source: "train.txt" batch_size: 4 new_height: 32 new_width: 32 }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param
        if param.batch_size < 1:
            self.fail("Positive batch size required", batch_size=param.batch_size)
        if not param.source:
            self.fail("image_data_param needs a source, the list of images")
        size = (param.new_height, param.new_width)
        if (size[0] > 0) != (size[1] > 0):
            self.fail(
                "Current implementation requires new_height and new_width to be set at the same "
                "time",
                new_height=size[0],
                new_width=size[1],
            )
        self.seed()
        with self.opening():
            source = self.find(param.source)
            new_size = size if any(size) else None
            self.samples = into_memory(
                ImageListSamples(
                    read_list(source), source, param.root_folder, param.is_color, new_size
                )
            )
            self.begin_pass()
            self._skip()
            self.transform_as(first=int(self.order[self.position]))

    def _skip(self) -> None:
        if not self.param.rand_skip:
            return
        skip = int(torch.randint(self.param.rand_skip, (), generator=self.generator))
        self.log(f"Skipping first {skip} data points.")
        if skip >= len(self.samples):
            self.fail("Not enough points to skip", skip=skip, images=len(self.samples))
        self.position = skip

    @property
    def depth(self) -> int:
        return self.proto.data_param.prefetch

    def new_order(self) -> np.ndarray:
        if not self.param.shuffle:
            return np.arange(len(self.samples))
        return torch.randperm(len(self.samples), generator=self.generator).numpy()

    def next_indices(self) -> Indices:
        if self.position + self.param.batch_size >= len(self.order):
            self.log("Restarting data prefetching from start.")
        return super().next_indices()

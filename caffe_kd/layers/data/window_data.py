"""WindowData: windows of images, as R-CNN trains on them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...core.errors import DataError
from ...data.image_list import ImageListSamples
from ...data.source import digest, into_memory
from ...data.transformer import Transformer
from ...data.windows import cut_window, read_windows
from ..base import Shape, register
from ..shared.sample_layer import Indices, SampleLayer


@register("WindowData", param="window_data_param", bottoms=0, tops=2)
class WindowData(SampleLayer):
    """Read random windows of images: background first, then ``fg_fraction`` of objects.

    ``source`` lists images and their windows: for each image the lines ``# image_index``, path,
    channels, height, width, number of windows, and for each window ``class overlap x1 y1 x2 y2``.
    Each window is brought to crop_size x crop_size with ``context_pad`` pixels of its surroundings
    on each side, in ``crop_mode`` "warp" stretched, in "square" not.

        y = x - mean, 0 outside of the image

    A mean_file gives the mean at its centre; ``mirror`` flips at random.

    Tops: data (batch_size, 3, crop_size, crop_size), blue, green, red; label (batch_size), 0 being
    background.

    Raises:
        NetError: a setting is out of range, or there are no windows of a kind that is drawn.
        DataError: the list or an image is missing or damaged, or a window lies outside its
            image; the message names the image's line in the list.

    Source: Caffe's WindowDataLayer. It draws in TEST as in TRAIN, and does not use
    transform_param's ``scale``, which a warning says. Decoded images are kept in memory as those
    of ImageData are, with ``cache_images`` also the files. The windows drawn follow
    from ``random_seed``.

    Sample::

        layer {
          name: "data"
          type: "WindowData"
          top: "data"  # (4, 3, 32, 32)
          top: "label"  # (4)
          transform_param { crop_size: 32 mirror: true }
          window_data_param { source: "windows.txt" batch_size: 4 fg_fraction: 0.25 }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param, transform = self.param, self.proto.transform_param
        self._crop = int(transform.crop_size)
        self._check()
        self.seed()
        with self.opening():
            source = self.find(param.source)
            self._windows = read_windows(source, param.fg_threshold, param.bg_threshold)
            self._files = ImageListSamples(
                self._windows.images, source, param.root_folder, keep_files=param.cache_images
            )
            self._images = into_memory(self._files)
            mean = Transformer(transform, self.is_training, self.find).mean
        self._mean = None if mean is None else self._centre(mean)
        objects = int(np.float32(param.batch_size) * np.float32(param.fg_fraction))
        self._kinds = [
            (np.flatnonzero(self._windows.label == 0), param.batch_size - objects),
            (np.flatnonzero(self._windows.label), objects),
        ]
        for (numbers, drawn), kind in zip(self._kinds, ("background", "foreground"), strict=True):
            if drawn and not len(numbers):
                self.fail(f"there are no {kind} windows in {source}", drawn_per_batch=drawn)
        self._log_counts()

    def _check(self) -> None:
        param = self.param
        if not param.source:
            self.fail("window_data_param needs a source, the file of windows")
        if param.batch_size < 1:
            self.fail("batch_size must be at least 1", batch_size=param.batch_size)
        if self._crop < 1:
            self.fail("transform_param needs a crop_size greater than 0", crop_size=self._crop)
        if (jitter := self.proto.transform_param.jitter) > 0:
            self.fail("windows are drawn at random: leave jitter out", jitter=jitter)
        if self.proto.transform_param.jitter:
            self.fail("WindowData does not shift its windows: leave jitter out")
        if 2 * param.context_pad >= self._crop:
            self.fail(
                "context_pad must leave room for the window: less than half of crop_size",
                context_pad=param.context_pad,
                crop_size=self._crop,
            )
        if not 0 <= param.fg_fraction <= 1:
            self.fail("fg_fraction must be in 0..1", fg_fraction=param.fg_fraction)
        if param.crop_mode not in ("warp", "square"):
            self.fail('crop_mode is "warp" or "square"', crop_mode=param.crop_mode)

    def _centre(self, mean: np.ndarray) -> np.ndarray:
        """Return the mean under the crop [3, crop_size, crop_size], or [1 or 3, 1, 1]."""
        channels, height, width = mean.shape
        if self.proto.transform_param.mean_value:
            if channels not in (1, 3):
                self.fail("Specify either 1 mean_value or as many as channels: 3", given=channels)
            return mean
        at = (width - self._crop) // 2
        if channels != 3 or at < 0 or at + self._crop > min(height, width):
            self.fail(
                "the mean must have 3 channels and cover the crop at its centre",
                mean=mean.shape,
                crop_size=self._crop,
            )
        return mean[:, at : at + self._crop, at : at + self._crop]

    def _log_counts(self) -> None:
        self.log(f"Number of images: {len(self._images)}")
        for label, count in zip(*np.unique(self._windows.label, return_counts=True), strict=True):
            self.log(f"class {label} has {count} samples")
        if self.proto.transform_param.scale != 1:
            self.log(f"layer '{self.name}': WindowData does not use scale, as in Caffe")

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        batch = self.param.batch_size
        return [(batch, 3, self._crop, self._crop), (batch,)]

    @property
    def sample_count(self) -> int:
        return len(self._windows.label)

    @property
    def deterministic(self) -> bool:
        return not self.proto.transform_param.mirror

    @property
    def depth(self) -> int:
        return self.proto.data_param.prefetch

    def next_indices(self) -> Indices:
        drawn = []
        for numbers, count in self._kinds:
            if count:
                rows = torch.randint(len(numbers), (count,), generator=self.generator)
                drawn.append(numbers[rows.numpy()])
        return np.concatenate(drawn)

    def digests(self) -> dict[str, str]:
        windows = self._windows
        return {
            **self._images.digests(),
            "labels": digest(windows.label),
            "windows": digest(windows.image, windows.box),
        }

    def load(self, indices: Indices) -> tuple[Tensor, ...]:
        if isinstance(indices, slice):
            indices = np.arange(*indices.indices(self.sample_count))
        count = len(indices)
        flip = np.zeros(count, np.int64)
        if self.proto.transform_param.mirror:
            flip = torch.randint(2, (count,), generator=self.generator).numpy()
        data = np.zeros((count, 3, self._crop, self._crop), np.float32)
        for crop, window, mirror in zip(data, indices, flip, strict=True):
            self._show(int(window), bool(mirror), crop)
        labels = self._windows.label[indices].astype(np.float32)
        return torch.from_numpy(data), torch.from_numpy(labels)

    def _show(self, window: int, mirror: bool, crop: np.ndarray) -> None:
        """Write a window into its crop, float32 [3, crop_size, crop_size]."""
        number = int(self._windows.image[window])
        image, _ = self._images.read(number)
        box = self._windows.box[window]
        square = self.param.crop_mode == "square"
        cut = cut_window(image, box, self._crop, self.param.context_pad, square, mirror)
        if cut is None:
            raise DataError(
                f"the window {' '.join(map(str, box))} (x1 y1 x2 y2) does not lie in its image of "
                f"{image.shape[2]} x {image.shape[1]} pixels",
                self._files.where(number),
            )
        _, height, width = cut.pixels.shape
        area = np.s_[:, cut.row : cut.row + height, cut.column : cut.column + width]
        crop[area] = cut.pixels
        if self._mean is not None:
            crop[area] -= np.broadcast_to(self._mean, crop.shape)[area]

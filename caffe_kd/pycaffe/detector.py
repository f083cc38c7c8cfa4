"""Detector: classifies windows of images, as in R-CNN."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import NetError, UsageError
from . import io
from .classifier import ImageInputNet
from .net import Path

Array = NDArray[Any]

_SELECTIVE_SEARCH = "selective_search_ijcv_with_python"


class Detector(ImageInputNet):
    """A net that classifies windows of images.

    A window is (ymin, xmin, ymax, xmax) in pixels; the last row and column are excluded.

    Args:
        model_file: the deploy prototxt.
        pretrained_file: its weights.
        mean: see ``ImageInputNet``, for the next three as well.
        input_scale: likewise.
        raw_scale: likewise.
        channel_swap: likewise.
        context_pad: how many pixels of the net's input lie around the window; 0 if not given.

    Source: pycaffe's Detector.
    """

    def __init__(
        self,
        model_file: Path,
        pretrained_file: Path,
        mean: Array | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
        context_pad: int | None = None,
    ) -> None:
        super().__init__(model_file, pretrained_file, mean, input_scale, raw_scale, channel_swap)
        self.configure_crop(context_pad)

    def detect_windows(
        self, images_windows: Iterable[tuple[Path, Iterable[Sequence[float]]]]
    ) -> list[dict[str, Any]]:
        """Return for each window a dict of ``window``, ``prediction`` and ``filename``.

        Args:
            images_windows: pairs of an image file and its windows.
        """
        crops: list[Array] = []
        detections: list[dict[str, Any]] = []
        for filename, windows in images_windows:
            image = io.load_image(filename)
            for window in windows:
                crops.append(self.crop(image, window))
                detections.append({"window": window, "filename": filename})
        if not crops:
            return []
        for detection, prediction in zip(detections, self._predict(crops), strict=True):
            detection["prediction"] = prediction
        return detections

    def detect_selective_search(self, image_fnames: Iterable[Path]) -> list[dict[str, Any]]:
        """Return ``detect_windows`` for the windows that Selective Search proposes.

        Raises:
            UsageError: Selective Search is not installed; it needs MATLAB.
        """
        try:
            search = importlib.import_module(_SELECTIVE_SEARCH)
        except ImportError:
            raise UsageError(
                f"Selective Search is not installed: no module named '{_SELECTIVE_SEARCH}'. It "
                "needs MATLAB.  Take windows from elsewhere, and give them to detect_windows"
            ) from None
        names = [os.path.abspath(name) for name in image_fnames]
        windows = search.get_windows(names, cmd="selective_search_rcnn")
        return self.detect_windows(zip(names, windows, strict=True))

    def crop(self, im: Array, window: Sequence[float]) -> Array:
        """Return the crop of a window, with context around it, in the input's size.

        What lies outside the image is filled with the mean, so that it is 0 for the net.

        Raises:
            NetError: the window does not overlap the image.
        """
        top, left, bottom, right = (int(edge) for edge in window)
        if not self.context_pad:
            return self._part(im, np.array([top, left, bottom, right]), window)
        size = self.blobs[self.inputs[0]].width  # the input is taken to be square
        scale = size / (size - 2.0 * self.context_pad)
        half = np.array([bottom - top + 1, right - left + 1]) / 2.0
        center = np.array([top, left]) + half
        box = np.round([*(center - scale * half), *(center + scale * half)])
        shrink = size / (box[2:] - box[:2] + 1)  # from the image's pixels to the input's
        pad = np.round(np.maximum(0, -box[:2]) * shrink).astype(int)
        inside = np.clip(box, 0, [*im.shape[:2], *im.shape[:2]]).astype(int)
        shown = np.round((inside[2:] - inside[:2] + 1) * shrink).astype(int)
        height, width = np.minimum(shown, size - pad)
        part = self._part(im, inside, window)
        crop: Array = np.ones(self.crop_dims, np.float32) * self.crop_mean
        y, x = pad
        crop[y : y + height, x : x + width] = io.resize_image(part, (height, width))
        return crop

    @staticmethod
    def _part(im: Array, box: Array, window: Sequence[float]) -> Array:
        top, left, bottom, right = np.maximum(box, 0)
        part = im[top:bottom, left:right]
        if not part.size:
            raise NetError(
                f"a window (ymin, xmin, ymax, xmax) must lie in its image of {im.shape[:2]} "
                f"pixels. Received: {tuple(window)}"
            )
        return part

    def configure_crop(self, context_pad: int | None) -> None:
        """Set how many pixels of the net's input lie around the window, in ``crop``.

        Raises:
            NetError: nothing is left for the window.
        """
        name = self.inputs[0]
        _, channels, height, width = self.blobs[name].shape
        self.crop_dims = np.array([height, width, channels])
        self.context_pad = context_pad or 0
        if not 0 <= self.context_pad * 2 < width:
            raise NetError(
                f"context_pad must leave some of the input's {width} pixels. Received: "
                f"{context_pad}"
            )
        mean = self.transformer.mean.get(name)
        if mean is None:
            self.crop_mean: Array = np.zeros((1, 1, channels), np.float32)
            return
        # The mean in the image's own channel order and range.
        crop_mean = np.atleast_3d(mean.transpose(1, 2, 0)) if mean.ndim == 3 else mean[:, :, None]
        swap = self.transformer.channel_swap.get(name)
        if swap is not None and crop_mean.shape[2] > 1:
            crop_mean = crop_mean[:, :, np.argsort(swap)]
        self.crop_mean = crop_mean / self.transformer.raw_scale.get(name, 1)

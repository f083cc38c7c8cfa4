"""Classifier: a net for images, with the preprocessing of its input."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import NetError
from ..proto import caffe_pb2 as pb
from . import io
from .net import Net, Path

Array = NDArray[Any]


class ImageInputNet(Net):
    """A net in phase TEST whose first input takes images [height, width, channel].

    Args:
        model_file: the deploy prototxt.
        pretrained_file: its weights.
        mean: subtracted from an image; see ``io.Transformer`` for this and the next three.
        input_scale: multiplied by after that.
        raw_scale: multiplied by before that; 255 for nets that were trained on bytes.
        channel_swap: the order of channels, (2, 1, 0) for RGB to BGR.

    Raises:
        CaffeKDError: a file is missing or wrong, or the net has no input with four axes.
    """

    def __init__(
        self,
        model_file: Path,
        pretrained_file: Path,
        mean: Array | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
    ) -> None:
        super().__init__(model_file, pb.TEST, weights=pretrained_file)
        shape = self.blobs[self.inputs[0]].shape if self.inputs else ()
        if len(shape) != 4:
            raise NetError(
                "a net for images begins with an input [N, K, H, W]; make_deploy writes one. "
                f"Received: {f'an input of shape {shape}' if self.inputs else 'no input'}",
                str(model_file),
            )
        self.transformer = io.Transformer({self.inputs[0]: shape})
        self.transformer.set_transpose(self.inputs[0], (2, 0, 1))
        if mean is not None:
            self.transformer.set_mean(self.inputs[0], mean)
        if input_scale is not None:
            self.transformer.set_input_scale(self.inputs[0], input_scale)
        if raw_scale is not None:
            self.transformer.set_raw_scale(self.inputs[0], raw_scale)
        if channel_swap is not None:
            self.transformer.set_channel_swap(self.inputs[0], channel_swap)

    def _predict(self, images: Iterable[Array]) -> Array:
        """Return the first output for images, which are preprocessed for it."""
        name = self.inputs[0]
        inputs = np.stack([self.transformer.preprocess(name, image) for image in images])
        return self.forward_all(**{name: inputs})[self.outputs[0]]


class Classifier(ImageInputNet):
    """A net that classifies images.

    Args:
        model_file: the deploy prototxt.
        pretrained_file: its weights.
        image_dims: height and width that an image is resized to before it is cropped to the
            input's; the input's size if not given.
        **transform: ``mean``, ``input_scale``, ``raw_scale``, ``channel_swap``, as in
            ``ImageInputNet``.

    Source: pycaffe's Classifier.
    """

    def __init__(
        self,
        model_file: Path,
        pretrained_file: Path,
        image_dims: Sequence[int] | None = None,
        mean: Array | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
    ) -> None:
        super().__init__(model_file, pretrained_file, mean, input_scale, raw_scale, channel_swap)
        self.crop_dims = np.array(self.blobs[self.inputs[0]].shape[2:])
        self.image_dims = self.crop_dims if image_dims is None else np.array(image_dims)
        if (self.image_dims < self.crop_dims).any():
            raise NetError(
                f"image_dims must be at least the input's {tuple(self.crop_dims.tolist())}. "
                f"Received: {tuple(self.image_dims.tolist())}"
            )

    def predict(self, inputs: Sequence[Array], oversample: bool = True) -> Array:
        """Return the probabilities of the classes for each image, float32 [N, classes].

        Args:
            inputs: images [H, W, K] of any size, as ``io.load_image`` gives them.
            oversample: whether to average over ten crops; otherwise only the centre crop is used.
        """
        images = [io.resize_image(image, self.image_dims) for image in inputs]
        if not images:
            raise NetError("there is no image to classify")
        if oversample:
            predictions = self._predict(io.oversample(images, self.crop_dims))
            return predictions.reshape(len(images), 10, -1).mean(1)
        (y, x), (height, width) = (self.image_dims - self.crop_dims) // 2, self.crop_dims
        return self._predict([image[y : y + height, x : x + width] for image in images])

"""Classifies images with an ONNX model, in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError

from ..core.errors import DataError, ExportError, ParseError
from ..core.files import read_bytes
from ..data.image_file import check_size

_MOST_BYTES = 2**31 - 1  # of a protobuf message
_PIXELS, _FLOATS = "tensor(uint8)", "tensor(float)"


class Classifier:
    """An ONNX model that takes images (N, C, H, W), C 1 or 3, and has a score per class.

        probabilities = softmax(model((pixel - mean) * scale))

    Pixels are 0 to 255, grey or BGR. Where the model takes uint8, or holds a Softmax, it does that
    part itself. Of several outputs the last is used, of those with a Softmax if there are any.

    Args:
        path: the model.
        scale: instead of the one in the model's ``metadata_props`` (see ``properties_of``), or 1.
        mean: one number or one per channel, instead of the model's, or none.

    Attributes:
        input_shape: (C, H, W).
        classes: how many.
        description: what is done to pixels and scores, as text.
        scale_is_known: whether the model or the caller gave the scale, or it needs none.

    Raises:
        ParseError: the file is missing or not an ONNX model.
        ExportError: the model is not a classifier of images.
        DataError: the mean does not fit.
    """

    def __init__(
        self, path: str | Path, scale: float | None = None, mean: list[float] | None = None
    ) -> None:
        self.path = str(path)
        content = read_bytes(path, _MOST_BYTES)
        self._session = self._load(content)
        self._input = self._only_input()
        self.input_shape = self._shape()
        self._output, self.classes, self._needs_softmax = self._scores(content)
        self._set_scale(scale, mean)

    def _load(self, content: bytes) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.log_severity_level = 4  # its errors are raised as exceptions as well
        try:
            return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no public root
            raise ParseError(
                f"is not an ONNX model, or ONNX Runtime cannot load it: {error}", self.path
            ) from error

    def _only_input(self) -> ort.NodeArg:
        inputs = self._session.get_inputs()
        if len(inputs) == 1 and inputs[0].type in (_PIXELS, _FLOATS) and len(inputs[0].shape) == 4:
            return inputs[0]
        raise self._no_classifier("input", inputs, "one input (batch, C, H, W) of uint8 or float")

    def _no_classifier(self, what: str, found: list[ort.NodeArg], wanted: str) -> ExportError:
        shown = ", ".join(f"'{arg.name}' {arg.type} {arg.shape}" for arg in found)
        return ExportError(
            f"the model does not classify images: {wanted} is needed. Received: {what} {shown}",
            self.path,
        )

    def _shape(self) -> tuple[int, int, int]:
        channels, height, width = self._input.shape[1:]
        whole = all(isinstance(n, int) and n > 0 for n in (channels, height, width))
        if not whole or channels not in (1, 3):
            wanted = "an input (batch, C, H, W) of known dims, C being 1 or 3,"
            raise self._no_classifier("input", [self._input], wanted)
        try:
            check_size(width, height)
        except DataError as error:
            raise DataError(f"the model's input: {error}", self.path) from None
        return channels, height, width

    def _scores(self, content: bytes) -> tuple[str, int, bool]:
        """Return the output to read, its number of classes, and whether it needs a softmax."""
        try:
            nodes = onnx.ModelProto.FromString(content).graph.node
        except DecodeError as error:
            raise ParseError("is not an ONNX model", self.path) from error
        normalised = {top for node in nodes if node.op_type == "Softmax" for top in node.output}
        outputs = self._session.get_outputs()
        fitting = [o for o in outputs if o.type == _FLOATS and _class_count(o.shape) > 1]
        if not fitting:
            wanted = "an output (batch, classes) of at least two classes"
            raise self._no_classifier("output", outputs, wanted)
        chosen = ([o for o in fitting if o.name in normalised] or fitting)[-1]
        return chosen.name, _class_count(chosen.shape), chosen.name not in normalised

    def _set_scale(self, scale: float | None, mean: list[float] | None) -> None:
        facts: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map
        own = f"caffe_kd.{self._input.name}"
        takes_pixels = self._input.type == _PIXELS
        if takes_pixels and (scale is not None or mean is not None):
            fact = "the model scales its pixels itself: neither scale nor mean can be given"
            raise ExportError(fact, self.path)
        if mean is None and (image := facts.get(f"{own}.mean_file")) is not None:
            raise ExportError(
                f"the net was trained with the mean image '{image}', which this model does not "
                "hold. Export it with -preprocess, or give -mean",
                self.path,
            )
        try:
            stored = [float(m) for m in facts.get(f"{own}.mean", "").split(",") if m]
            self._scale = float(facts.get(f"{own}.scale", 1)) if scale is None else scale
        except ValueError as error:
            raise ParseError(f"its metadata_props are damaged: {error}", self.path) from None
        self._mean = stored if mean is None else mean
        if len(self._mean) not in (0, 1, self.input_shape[0]):
            raise DataError(
                f"the mean is one number or one per channel: {self.input_shape[0]}. Received: "
                f"{len(self._mean)}",
                self.path,
            )
        self.scale_is_known = takes_pixels or scale is not None or f"{own}.scale" in facts
        self.description = self._describe(takes_pixels)

    def _describe(self, takes_pixels: bool) -> str:
        mean = ", ".join(f"{m:g}" for m in self._mean)
        pixels = f"(pixel - {mean})" if len(self._mean) == 1 else f"(pixel - [{mean}])"
        given = "pixel" if takes_pixels else f"{pixels if mean else 'pixel'} * {self._scale:g}"
        color = "grey" if self.input_shape[0] == 1 else "BGR"
        scores = f"softmax('{self._output}')" if self._needs_softmax else f"'{self._output}'"
        return (
            f"'{self._input.name}' = {given}, {color}, {self.input_shape[1]} x "
            f"{self.input_shape[2]}; probabilities = {scores}"
        )

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Return the probabilities, float32 [classes], for uint8 pixels [C, H, W].

        Raises:
            ExportError: the model does not run.
        """
        values = pixels[np.newaxis]
        if self._input.type == _FLOATS:
            values = values.astype(np.float32)
            if self._mean:
                values -= np.array(self._mean, np.float32).reshape(-1, 1, 1)
            values *= np.float32(self._scale)
        try:
            (output,) = self._session.run([self._output], {self._input.name: values})
        except Exception as error:  # onnxruntime's exceptions have no public root
            raise ExportError(f"the model does not run: {error}", self.path) from error
        scores = np.asarray(output).reshape(-1)
        if self._needs_softmax:
            powers = np.exp(scores - scores.max())
            scores = powers / powers.sum()
        return scores


def _class_count(shape: list[int | str | None]) -> int:
    """Return K of (batch, K) or (batch, K, 1, 1), else 0."""
    if len(shape) < 2 or not isinstance(shape[1], int) or any(n != 1 for n in shape[2:]):
        return 0
    return shape[1]

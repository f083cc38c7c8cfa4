"""What the checks of a model share: ONNX Runtime, the net's inputs, and differences of values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch

from ..net import Net
from .preprocess import Preprocess

if TYPE_CHECKING:
    import onnxruntime as ort


def session_of(model: onnx.ModelProto) -> ort.InferenceSession:
    """Return a session that runs a model on the CPU and prints nothing."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4  # its errors are raised as exceptions as well
    providers = ["CPUExecutionProvider"]
    return ort.InferenceSession(model.SerializeToString(), options, providers=providers)


def start(net: Net, values: Mapping[str, np.ndarray], rules: Mapping[str, Preprocess]) -> None:
    """Set a net's inputs, pixels as the rules say, and reset its layers."""
    for node in net.nodes:
        node.layer.reset()  # every run of the model starts from the beginning
    floats = {n: rules[n](v) if n in rules else v for n, v in values.items()}
    net.set_inputs({n: torch.from_numpy(v).to(net.context.device) for n, v in floats.items()})


def greatest_of(values: np.ndarray) -> float:
    """Return the greatest finite absolute value, or 0."""
    return float(np.abs(values[np.isfinite(values)]).max(initial=0))


def difference_of(result: np.ndarray, wanted: np.ndarray) -> float:
    """Return the greatest difference; NaN and infinity equal themselves."""
    return float(differences(result, wanted).max(initial=0))


def differences(result: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return how far each value is from the one wanted; NaN and infinity equal themselves."""
    same = (result == wanted) | (np.isnan(result) & np.isnan(wanted))
    with np.errstate(invalid="ignore"):
        return np.where(same, 0, np.abs(result - wanted))

"""An int8 model and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import onnx

from .evaluate import Evaluation, Latency
from .float_model import FloatModel
from .options import Method
from .plan import Plan


@dataclass
class BlobRange:
    """The range of a blob in int8.

    Attributes:
        blob: its name, or the value's where a layer works in place.
        layer: the layer that makes it.
        low: the least value on the calibration samples.
        high: the greatest.
        threshold: the |x| to which values are represented.
        scale: between two int8 values.
        zero_point: the int8 value of 0.
        clipped: the share of the values beyond the threshold.
    """

    blob: str
    layer: str
    low: float
    high: float
    threshold: float
    scale: float
    zero_point: int
    clipped: float


@dataclass
class Quantized:
    """An int8 model and what is known of it.

    Attributes:
        path: its file.
        method: how ranges were chosen, after AUTO has decided.
        model: the int8 model.
        source: the float model.
        plan: which layers became int8.
        ranges: of each blob; empty where dynamic.
        trials: by method, how it did on held-out samples, where AUTO compared them.
        evaluations: on held-out training samples, the test set and further sets.
        latencies: per batch size.
        sizes: bytes of the float and the int8 model.
    """

    path: Path
    method: Method
    model: onnx.ModelProto
    source: FloatModel
    plan: Plan
    ranges: list[BlobRange] = field(default_factory=list)
    trials: dict[Method, Evaluation] = field(default_factory=dict)
    evaluations: list[Evaluation] = field(default_factory=list)
    latencies: list[Latency] = field(default_factory=list)
    sizes: tuple[int, int] = (0, 0)

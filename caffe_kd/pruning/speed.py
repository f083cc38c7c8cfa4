"""How long a net takes, to prune by."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ..export.deploy import DeployOptions, deploy
from ..export.latency import microseconds
from ..export.onnx import to_onnx
from ..net import Net
from ..proto import caffe_pb2 as pb
from .cut import Weights, as_layers
from .options import NetState


def latency_of(param: Any, weights: Weights, file: Path | None, state: NetState) -> float:
    """Return the microseconds of the deployed net for one sample, in ONNX Runtime.

    Raises:
        CaffeKDError: it cannot be deployed or exported.
    """
    options = DeployOptions(state.level, state.stages, state.input_shapes)
    net = Net(deploy(param, file, options), pb.TEST, file)
    net.copy_weights(as_layers(weights), "the weights")
    with tempfile.TemporaryDirectory() as folder:
        return microseconds(to_onnx(net, Path(folder) / "net.onnx"))

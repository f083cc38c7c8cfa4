"""ONNX Runtime's quantiser, given the nodes, the ranges and what stays float."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_dynamic
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from ..core.errors import ExportError
from .plan import Plan

Range = tuple[float, float]


def static_model(
    model: onnx.ModelProto,
    plan: Plan,
    ranges: Mapping[str, Range],
    per_channel: bool = False,
    symmetric: bool = False,
) -> onnx.ModelProto:
    """Return a model with QuantizeLinear and DequantizeLinear around what becomes int8.

    Args:
        model: the float model.
        plan: its nodes that become int8, and the values that stay float.
        ranges: for each of the plan's values, the least and the greatest number to represent.
        per_channel: whether weights have a scale for each output channel.
        symmetric: whether values are int8 with the zero point 0, in place of uint8.
    """
    operators = {node.op_type for node in model.graph.node if node.name in set(plan.nodes)}
    activations = QuantType.QInt8 if symmetric else QuantType.QUInt8
    data = {
        name: TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32))
        for name, (low, high) in ranges.items()
    }
    for node in model.graph.node:
        if node.op_type == "Softmax":  # of which 1.18 sets the range, whether it is asked or not
            data[node.output[0]] = TensorData(lowest=np.float32(0), highest=np.float32(1))
    with _quantising():
        quantizer = QDQQuantizer(
            _copy(model),
            per_channel,
            False,  # reduce_range: for old CPUs, whose sums of products overflow
            QuantType.QInt8,
            activations,
            TensorsData(CalibrationMethod.MinMax, data),
            plan.nodes,
            [],
            sorted(operators),
            {"ActivationSymmetric": symmetric, "WeightSymmetric": True},
        )
        mark = quantizer.quantize_activation_tensor

        def mark_unless_float(name: str) -> None:
            if name not in plan.kept_float:
                mark(name)

        # Its options leave outputs float by the type of the operator only.
        quantizer.quantize_activation_tensor = mark_unless_float
        quantizer.quantize_model()
        quantizer.model.topological_sort()  # it adds nodes at the end, which ONNX does not allow
        result: onnx.ModelProto = quantizer.model.model
    return result


def dynamic_model(model: onnx.ModelProto, plan: Plan, per_channel: bool = False) -> onnx.ModelProto:
    """Return a model with int8 weights, which takes the range of each activation as it runs."""
    names = [node.name for node in plan.weighted.values()]
    # A Gemm becomes a MatMul of that name first. There is no integer ConvTranspose.
    names += [f"{name}_MatMul" for name in names]
    with _quantising(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dynamic.onnx"
        quantize_dynamic(
            _copy(model),
            path,
            op_types_to_quantize=["Conv", "MatMul"],
            per_channel=per_channel,
            weight_type=QuantType.QUInt8,  # twice as fast in Conv as QInt8, which 1.18 lacks
            nodes_to_quantize=names,
        )
        return onnx.load(path)


def scales(model: onnx.ModelProto) -> dict[str, tuple[float, int]]:
    """Return the scale and the zero point of each activation that a static model quantises.

    The names are those of the float model's values.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    maker = {top: node for node in model.graph.node for top in node.output}
    result = {}
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in maker:
            continue
        quantize = maker[node.input[0]]
        scale, zero = (numpy_helper.to_array(constants[name]) for name in quantize.input[1:3])
        name = quantize.input[0].removesuffix("_QuantizeLinear_Input")
        result[name] = float(scale), int(zero)
    return result


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


@contextlib.contextmanager
def _quantising() -> Iterator[None]:
    """Keep what the quantiser prints and logs from the user.

    Raises:
        ExportError: the quantiser fails, as where onnxruntime is much older than onnx.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except Exception as error:  # what it raises has no common root
        raise ExportError(
            f"the quantiser of onnxruntime {onnxruntime.__version__} with onnx {onnx.__version__} "
            f"fails, and another version may not: {type(error).__name__}: {error}"
        ) from error
    finally:
        logging.disable(before)

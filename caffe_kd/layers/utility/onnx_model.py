"""ONNXModel: the outputs of an ONNX model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.errors import did_you_mean
from ...proto.onnx_file import Port, open_session, read_ports
from ..base import Layer, Shape, register

# ONNX Runtime's names of the types that a blob can be converted to, and from.
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


@register(
    "ONNXModel",
    param="onnx_model_param",
    bottoms=(1, None),
    tops=(1, None),
    origin="caffe_kd",
)
class ONNXModel(Layer):
    """Run an ONNX model in ONNX Runtime, on the CPU, without a gradient, as a teacher.

    ``tops = model(bottoms)``. ``teacher { net: "teacher.onnx" }`` in a solver makes such a layer.
    PyTorch writes the file, without the package onnxscript that its newer exporter needs, by
    ``torch.onnx.export(net.eval(), (images,), "teacher.onnx", dynamo=False)``.

    Fields of ``onnx_model_param``:
        model: the file; from the working directory, or beside the prototxt. Weights that lie in
            other files must be in the model's folder or below it.
        input, output: the model's names for the bottoms and the tops. Unset: the bottoms or tops
            are matched by name, or else in the model's order.

    Bottoms: (N, ...), as the model requires; values are converted to its types. A model for a fixed
    number of samples is run on pieces of that size, the last one padded with zeros. Tops: the
    model's outputs, as float32. Those for a sample must not depend on the others of its batch, as
    in nets made for inference: the teacher cache relies on it.

    Raises:
        NetError: the model's inputs or outputs do not fit the prototxt, or it does not run.
        ParseError: the file is not an ONNX model, or not one that may be run; see
            ``proto/onnx_file.py``.

    Source: https://onnx.ai. BVLC Caffe has no such layer.

    Sample::

        layer {
          name: "teacher"
          type: "ONNXModel"
          bottom: "data"  # (2, 3, 8, 8)
          top: "teacher/logits"  # (2, 10)
          onnx_model_param { model: "teacher.onnx" }
        }
    """

    no_onnx = "a model inside a net is not exported. Leave the layer out of the deployed net"
    no_torch = (
        "ONNX Runtime runs the model. Take the layer out of the net, and give its tops as inputs"
    )

    def setup(self, bottom_shapes: list[Shape]) -> None:
        if not self.param.model:
            self.fail('onnx_model_param needs a model, as in model: "teacher.onnx"')
        self.path = self.find(self.param.model)
        ports = read_ports(self.path)
        self._files = [self.path, *ports.files]
        inputs = ports.inputs
        bottoms = [name for name in self.proto.bottom if name]
        self._inputs = self._ports(inputs, self.param.input, bottoms, "bottom")
        if len(self._inputs) < len(inputs):
            self.fail(
                "the model takes more inputs than the layer has bottoms",
                inputs=", ".join(p.name for p in inputs),
                bottoms=len(bottoms),
            )
        self._outputs = self._ports(ports.outputs, self.param.output, list(self.proto.top), "top")
        self._session: Any = open_session(self.path, torch.get_num_threads())
        given = {arg.name: arg.type for arg in self._session.get_inputs()}
        self._dtypes = [self._dtype(p.name, given.get(p.name, "")) for p in self._inputs]
        made = {arg.name: arg.type for arg in self._session.get_outputs()}
        for port in self._outputs:
            self._dtype(port.name, made.get(port.name, ""))
        for port, shape in zip(self._inputs, bottom_shapes, strict=True):
            self._check_shape(port, shape)
        batches = {p.shape[0] for p in self._inputs if p.shape} - {None}
        self._batch = batches.pop() if len(batches) == 1 else None
        self._known: dict[tuple[Shape, ...], list[Shape]] = {}

    def _ports(
        self, ports: Sequence[Port], named: Sequence[str], blobs: Sequence[str], what: str
    ) -> list[Port]:
        """Return the model's ports for the layer's bottoms or tops."""
        known = {port.name: port for port in ports}
        names = list(named) or list(blobs)
        if named and len(named) != len(blobs):
            self.fail(f"onnx_model_param must name as many as there are {what}s", names=len(named))
        if set(names) <= known.keys():
            return [known[name] for name in names]
        if named or len(blobs) > len(ports):
            wrong = next((n for n in names if n not in known), "")
            self.fail(
                f"the model has no {'input' if what == 'bottom' else 'output'} for {what} "
                f"'{wrong}'.{did_you_mean(wrong, known)} It has: {', '.join(known)}"
            )
        return list(ports[: len(blobs)])

    def _dtype(self, name: str, kind: str) -> Any:
        if kind not in _DTYPES:
            self.fail(f"the model's '{name}' is {kind or 'nothing'}, which no blob can hold")
        return _DTYPES[kind]

    def _check_shape(self, port: Port, shape: Shape) -> None:
        if port.shape is None:
            return
        fits = len(port.shape) == len(shape) and all(
            wanted in (None, size) for wanted, size in zip(port.shape[1:], shape[1:], strict=True)
        )
        if not fits:
            sizes = " x ".join("any" if size is None else str(size) for size in port.shape)
            self.fail(f"the model's input '{port.name}' is {sizes}", bottom=shape)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        key = tuple(bottom_shapes)
        if key not in self._known:
            tops = self._outputs_for([np.zeros(shape, np.float32) for shape in bottom_shapes])
            self._known[key] = [tuple(top.shape) for top in tops]
        return self._known[key]

    @property
    def per_sample(self) -> bool:
        return True

    @cached_property
    def digest(self) -> bytes:
        total = hashlib.sha256()
        for file in self._files:
            with open(file, "rb") as stream:
                while part := stream.read(1 << 20):
                    total.update(part)
        return total.digest()

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        device = bottoms[0].device
        values = [b.detach().cpu().contiguous().numpy() for b in bottoms]
        return tuple(torch.from_numpy(top).to(device) for top in self._outputs_for(values))

    def _outputs_for(self, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        samples = len(values[0]) if values[0].ndim else 1
        if self._batch is None or self._batch == samples:
            return self._run(values)
        pieces = []
        for start in range(0, samples, self._batch):
            piece = [v[start : start + self._batch] for v in values]
            lacking = self._batch - len(piece[0])
            padded = [np.pad(v, [(0, lacking)] + [(0, 0)] * (v.ndim - 1)) for v in piece]
            pieces.append([top[: len(piece[0])] for top in self._run(padded)])
        return [np.concatenate(tops) for tops in zip(*pieces, strict=True)]

    def _run(self, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        feed = {
            port.name: value.astype(dtype, copy=False)
            for port, value, dtype in zip(self._inputs, values, self._dtypes, strict=True)
        }
        try:
            outputs = self._session.run([port.name for port in self._outputs], feed)
        except Exception as error:  # onnxruntime's exceptions have no public root
            self.fail(f"the model does not run: {error}", model=self.path)
        return [np.ascontiguousarray(a, np.float32).reshape(np.shape(a)) for a in outputs]

"""Python: a layer whose class a user wrote in numpy, for BVLC Caffe or this package."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...core.errors import NetError, UsageError, did_you_mean
from ...python_layers import user_code, user_layer
from ...python_layers.user_layer import ArrayBlob, BlobVector
from ..base import Layer, Shape, register
from ..shared.python_layer import ParameterBlob, as_array


class _Bridge(torch.autograd.Function):
    """Runs a user's forward and backward between tensors."""

    @staticmethod
    def forward(ctx: Any, layer: Python, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        tops = layer.run_forward(tensors[:count])
        # Without torch's check for later writes: a caller that writes to a blob between forward
        # and backward expects backward to see it, as in Caffe.
        ctx.layer = layer
        ctx.bottoms = [bottom.detach() for bottom in tensors[:count]]
        ctx.tops = [top.detach() for top in tops]
        return tops

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[2:]
        found = ctx.layer.run_backward(ctx.bottoms, ctx.tops, grads, needed)
        return (None, None, *found)


@register("Python", param="python_param", bottoms=(0, None), tops=(0, None))
class Python(Layer):
    """Run a class of the user's, which derives from ``caffe.Layer`` and computes in numpy.

    ``python_param`` names its ``module`` and, within it, the class as ``layer``; ``param_str`` is
    passed to it. The module is searched on PYTHONPATH, in the working directory and beside the
    prototxt; a process imports a module name only once. In it ``import caffe`` gives this package
    where Caffe is not installed. See ``caffe_kd.Layer`` for what the class looks like.

    Bottoms, tops: any, as the class requires; one that works in place gets the same blob as
    bottom and top. A loss needs a loss_weight. Blobs: those it adds in ``setup``.

    Commands run such layers only with the flag ``-python_layers``, since a prototxt must not run
    code by itself.

    Raises:
        UsageError: a command has the layer but not that flag.
        NetError: module or class cannot be found, or the user's code fails; the error is also an
            instance of the class that the code raised, so that a script's ``except`` catches it.

    Source: Caffe's PythonLayer and pycaffe. ``share_in_parallel`` has no effect: there is one
    solver. The object's state besides its blobs is not in a snapshot.

    Sample::

        layer {
          name: "double"
          type: "Python"
          bottom: "x"  # (2, 10)
          top: "doubled"  # (2, 10)
          python_param { module: "my_layers" layer: "Double" }
        }
    """

    no_onnx = (
        "the class computes in numpy, which ONNX cannot express. Write it as a layer type of your "
        "own with a method 'onnx'"
    )
    no_torch = (
        "the class cannot be translated to PyTorch. Take the layer out of the net, and give "
        "its tops as inputs, or write it as a layer type with an emitter"
    )

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param
        if not param.module or not param.layer:
            self.fail("python_param must name module and layer (the class)")
        if not user_code.is_allowed():
            raise UsageError(
                f"layer '{self.name}' ({self.type}): it runs code, class {param.layer} of module "
                f"{param.module}, which a command does only with the flag -python_layers. Give "
                "it if you trust this file and the module",
                self.proto.source_line or None,
            )
        names = [name for name in self.proto.bottom if name]
        self._bottoms = [ArrayBlob() for _ in names]
        self._tops = [
            self._bottoms[i] if names[i : i + 1] == [top] else ArrayBlob()
            for i, top in enumerate(self.proto.top)
        ]
        self._learned = BlobVector(self._add_parameter)
        self._folders = self._search_folders()
        self._create()
        self._bind_zeros(bottom_shapes)
        self._run("setup", self._bottoms, self._tops)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        self._bind_zeros(bottom_shapes)
        self._run("reshape", self._bottoms, self._tops)
        for index, top in enumerate(self._tops):
            if top.shape == (0,):
                self.fail(
                    f"neither setup nor reshape of {self.param.layer} set the shape of "
                    f"top[{index}]: call top[{index}].reshape(...)"
                )
        return [top.shape for top in self._tops]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        if not self._tops:
            return self.run_forward(bottoms)
        tensors = (*bottoms, *self.parameters_in_order)
        tops: tuple[Tensor, ...] = _Bridge.apply(self, len(bottoms), *tensors)  # type: ignore[no-untyped-call]
        return tops

    def run_forward(self, bottoms: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Run the user's reshape and forward; return new tops."""
        self._bind(bottoms)
        for top in self._tops:
            top.convert(self._bottoms[0].data.dtype if bottoms else np.float32)
        self._run("reshape", self._bottoms, self._tops)
        self._run("forward", self._bottoms, self._tops)
        device = bottoms[0].device if bottoms else self.context.device
        return tuple(torch.from_numpy(top.data.copy()).to(device) for top in self._tops)

    def run_backward(
        self,
        bottoms: Sequence[Tensor],
        tops: Sequence[Tensor],
        grads: Sequence[Tensor],
        needed: Sequence[bool],
    ) -> list[Tensor | None]:
        """Run the user's backward.

        Args:
            bottoms: the bottoms of the forward pass.
            tops: its tops.
            grads: the tops' gradients.
            needed: which bottoms, and then which parameter blobs, need a gradient.
        """
        self._bind(bottoms)
        for blob in self._bottoms:
            blob.diff[...] = 0
        for blob, top, grad in zip(self._tops, tops, grads, strict=True):
            blob.fill(as_array(top))
            blob.diff[...] = as_array(grad)
        # A user may add to a parameter's gradient or set it, where Caffe sums over iter_size
        # passes; the difference is returned, which autograd adds.
        learned = self.parameters_in_order
        before = [_gradient(blob, p) for blob, p in zip(self._learned, learned, strict=True)]
        for blob, value in zip(self._learned, before, strict=True):
            blob.convert(value.dtype)
            blob.diff[...] = value
        count = len(bottoms)
        self._run("backward", self._tops, list(needed[:count]), self._bottoms)
        found = [blob.diff.copy() for blob in self._bottoms]
        found += [blob.diff - value for blob, value in zip(self._learned, before, strict=True)]
        like = [*bottoms, *learned]
        return [
            torch.from_numpy(diff).reshape(tensor.shape).to(tensor.device) if wanted else None
            for diff, tensor, wanted in zip(found, like, needed, strict=True)
        ]

    # ---- the user's class

    def _search_folders(self) -> list[str]:
        """Return the working directory and the folders of the layer's and the net's prototxt."""
        file, _, line = self.proto.source_line.rpartition(":")
        files = [Path(file)] if line.isdecimal() else []
        files += [self.context.file] if self.context.file else []
        folders = [Path.cwd(), *(path.parent for path in files)]
        return list(dict.fromkeys(str(folder.absolute()) for folder in folders))

    def _create(self) -> None:
        """Find the user's class and create an instance."""
        name, module = self.param.layer, self._import()
        where = f"module '{self.param.module}' ({getattr(module, '__file__', None)})"
        cls = getattr(module, name, None)
        if cls is None:
            classes = [n for n, value in vars(module).items() if isinstance(value, type)]
            self.fail(f"{where} has no class '{name}'.{did_you_mean(name, classes)}")
        if not (isinstance(cls, type) and issubclass(cls, user_layer.Layer)):
            self.fail(
                f"'{name}' of {where} does not derive from this package's caffe.Layer. If "
                "BVLC Caffe is installed too, write `import caffe_kd as caffe` in the module"
            )
        self.user_layer: user_layer.Layer = self._guard(f"creating a {name}", cls, self.proto)
        self.user_layer.param_str = self.user_layer.param_str_ = self.param.param_str
        self.user_layer.phase = self.phase
        self.user_layer.blobs = self._learned

    def _import(self) -> ModuleType:
        name = self.param.module
        importlib.invalidate_caches()
        try:
            with user_code.user_import_path(self._folders):
                return importlib.import_module(name)
        except Exception as error:
            missing = error.name if isinstance(error, ModuleNotFoundError) else None
            if missing is None or not f"{name}.".startswith(f"{missing}."):
                raise self._error_of(error, f"importing module '{name}'") from error
        path = os.environ.get("PYTHONPATH")
        near = [file.stem for folder in self._folders for file in Path(folder).glob("*.py")]
        self.fail(
            f"No module named '{missing}'.{did_you_mean(name, near)} Searched: PYTHONPATH "
            f"({path or 'not set'}), the working directory and beside the prototxt "
            f"({', '.join(self._folders)})"
        )

    def _add_parameter(self, shape: Sequence[int]) -> ParameterBlob:
        self.add_blob(shape)
        blob = ParameterBlob()
        blob.show(self.blobs[-1])
        return blob

    def _bind_zeros(self, shapes: Sequence[Shape]) -> None:
        for blob, shape in zip(self._bottoms, shapes, strict=True):
            blob.bind(np.zeros(shape, np.float32))

    def _bind(self, bottoms: Sequence[Tensor]) -> None:
        for blob, tensor in zip(self._bottoms, bottoms, strict=True):
            array = as_array(tensor)
            in_place = any(blob is top for top in self._tops)
            blob.bind(array.copy() if in_place else array)  # others may need the old values

    def _run(self, method: str, *arguments: Any) -> None:
        """Call a method of the user's class, with the parameters' values in its blobs."""
        for blob, tensor in zip(self._learned, self.blobs, strict=True):
            blob.show(tensor)
        call = getattr(self.user_layer, method)
        self._guard(f"{method} of {self.param.layer}", call, *arguments)
        for blob, tensor in zip(self._learned, self.blobs, strict=True):
            blob.write_back(tensor)

    def _guard(self, what: str, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            with user_code.user_import_path(self._folders):
                return call(*arguments)
        except Exception as error:
            raise self._error_of(error, what) from error

    def _error_of(self, error: Exception, what: str) -> NetError:
        return user_code.as_net_error(
            error, f"layer '{self.name}' ({self.type}): {what}", self.proto.source_line or None
        )


def _gradient(blob: ParameterBlob, parameter: Tensor) -> np.ndarray:
    """Return a parameter's gradient so far, as an array of the blob's shape."""
    if parameter.grad is None:
        return np.zeros(blob.shape, blob.data.dtype)
    return as_array(parameter.grad).reshape(blob.shape).copy()

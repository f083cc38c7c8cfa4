"""Writes a net as self-contained PyTorch source, and its weights as safetensors."""

from __future__ import annotations

import builtins
import inspect
import keyword
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from ..core.errors import ExportError
from ..core.files import write_atomically
from ..layers import Shape
from ..layers.shared.int8 import int8_of
from ..layers.shared.quantized_layer import rounding_of
from ..net import LayerNode, Net
from .deploy import DeployOptions
from .pipeline import deployed_net
from .torch_emitters import EMITTERS, Code, NoCodeError
from .torch_layout import statement

_HEAD = '''\
"""{title}

{about}
"""

from __future__ import annotations

from pathlib import Path

{torch}from safetensors.torch import load_file
from torch import Tensor, nn


'''

# Imports, each written if it is needed.
_TORCH = {r"\btorch\.": "import torch\n", r"\bF\.": "import torch.nn.functional as F\n"}

_WEIGHTS = 'Path(__file__).with_suffix(".safetensors")'
_LOAD = '''\
    """Return the net with its weights, in evaluation mode."""
    net = {name}()
    net.load_state_dict(load_file(weights))
    return net.eval()
'''

_OWN_TYPE = (
    "the type has no emitter. Register one beside the type, with "
    "caffe_kd.export.torch_emitters.emits"
)

_ROUNDED = (
    "it computes with values rounded to few bits, for which there is no PyTorch code here. "
    "caffe_kd export_onnx writes it with integers"
)

_OF_MODULE = {"annotations", "torch", "nn", "F", "Tensor", "Path", "load_file", "load"}


@dataclass
class Module:
    """A net as Python source, with its weights by name."""

    source: str
    weights: dict[str, Tensor]


def write_torch(
    param: Any,
    file: str | Path,
    weights: str | Path,
    output: str | Path,
    options: DeployOptions | None = None,
) -> Path:
    """Write the deployed net as a Python file with its weights beside it; return the weights' path.

    Args:
        param: the net, train/test or deploy, with the layers of all phases.
        file: where it was read, for relative paths and messages.
        weights: its .caffemodel or .caffemodel.h5.
        output: the .py file; the weights' file has the same name with ``.safetensors``.
        options: which net is deployed.

    Raises:
        ExportError: a layer cannot be written as PyTorch code.
        CaffeKDError: net or weights are wrong.
    """
    output = Path(output)
    if output.suffix != ".py":
        raise ExportError(f"the module is a Python file, NAME.py. Received: {output}")
    options = options or DeployOptions()
    net = deployed_net(param, file, weights, options)
    module = to_torch(net, Path(file).name, options.outputs)
    target = output.with_suffix(".safetensors")
    write_atomically(target, save(module.weights))
    write_atomically(output, module.source.encode())
    return target


def to_torch(net: Net, file: str = "", outputs: Sequence[str] = ()) -> Module:
    """Write a deployed net as a PyTorch module of its own.

    Modules have the layers' names and variables the blobs', changed where Python requires it. A
    blob that layers share is one parameter there, too.

    Args:
        net: the net with its weights.
        file: the name of its prototxt, for comments.
        outputs: the blobs to return; empty: those that no layer consumes.

    Raises:
        ExportError: layers cannot be written as PyTorch code; the message lists them all.
    """
    nodes = [node for node in net.nodes if node.layer.type != "Input"]
    blobs = _Names(_OF_MODULE)
    arguments = "".join(f", {blobs[name]}: Tensor" for name in net.inputs)
    codes = _codes(nodes, blobs)
    made, run, weights = _statements(nodes, codes, blobs)
    helpers = dict.fromkeys(helper for code in codes for helper in code.helpers)
    reserved = _OF_MODULE | {helper.__name__ for helper in helpers}
    name = _Names(reserved)[net.name[:1].upper() + net.name[1:] or "Net"]
    outputs = [x for x in net.shapes if x in outputs] if outputs else net.outputs
    result = "Tensor" if len(outputs) == 1 else "dict[str, Tensor]"
    lines = [
        *map(_source_of, helpers),
        f"class {name}(nn.Module):",
        "    def __init__(self) -> None:",
        "        super().__init__()",
        *made,
        "",
        *statement(f"def forward(self{arguments}) -> {result}:", indent=4),
        *run,
        *statement(_return(outputs, blobs)),
        "",
        "",
        *statement(f"def load(weights: str | Path = {_WEIGHTS}) -> {name}:", indent=0),
        _LOAD.format(name=name),
    ]
    body = "\n".join(lines)
    return Module(_head(net, file, body, outputs) + body, weights)


def _statements(
    nodes: Sequence[LayerNode], codes: Sequence[Code], blobs: _Names
) -> tuple[list[str], list[str], dict[str, Tensor]]:
    """Return the statements that make the modules, those that run them, and their weights."""
    modules, weights = _Names(dir(nn.Module())), _Weights()
    made: list[str] = []
    run: list[str] = []
    for node, code in zip(nodes, codes, strict=True):
        value, location = code.value, _location(node)
        if code.module:
            name = modules.another(node.layer.name)  # several layers may have one name
            made += statement(f"self.{name} = {code.module}", location)
            made += [line for tie in weights.add(node, code, name) for line in statement(tie)]
            value, location = value.replace("{self}", f"self.{name}"), ""
        run += statement(f"{', '.join(blobs[top] for top in node.tops)} = {value}", location)
    return made, run, weights.tensors


def _return(outputs: Sequence[str], blobs: _Names) -> str:
    if len(outputs) == 1:
        return f"return {blobs[outputs[0]]}"
    return f"return {{{', '.join(f'{_quoted(name)}: {blobs[name]}' for name in outputs)}}}"


def _head(net: Net, file: str, body: str, outputs: Sequence[str]) -> str:
    words = ["The net", _clean(net.name), f"of {_clean(file)}" if file else ""]
    title = f"{' '.join(filter(None, words))} in PyTorch, written by caffe_kd."
    used = "".join(line for use, line in _TORCH.items() if re.search(use, body))
    return _HEAD.format(title=title, about=_about(net, outputs), torch=used)


def _source_of(helper: Any) -> str:
    try:
        return f"{inspect.getsource(helper)}\n"
    except (OSError, TypeError) as error:  # a class in a file that was run, not imported
        raise ExportError(
            f"the source of {helper.__name__}, a helper of an emitter, cannot be found. Define it "
            "in a module that is imported"
        ) from error


def _codes(nodes: Sequence[LayerNode], blobs: _Names) -> list[Code]:
    """Call the types' emitters, and collect their errors.

    Raises:
        ExportError: layers cannot be written.
    """
    codes, problems = [], []
    for node in nodes:
        kind = node.layer.type
        if rounding_of(node.layer) is not None or int8_of(node.layer) is not None:
            problems.append(f"layer '{node.layer.name}' ({kind}): {_ROUNDED}")
            continue
        where = f"{node.layer.proto.source_line}: layer '{node.layer.name}' ({kind})".lstrip(": ")
        emitter = EMITTERS.get(kind)
        if emitter is None:
            problems.append(f"{where}: {node.layer.no_torch or _OWN_TYPE}")
            continue
        try:
            codes.append(emitter(node, [blobs[name] for name in node.bottoms]))
        except NoCodeError as error:
            problems.append(f"{where}: {error}")
    if problems:
        raise ExportError(
            "these layers cannot be written as PyTorch code:\n  "
            + "\n  ".join(problems)
            + f"\n  Types that can: {', '.join(sorted(EMITTERS))}. "
            "export_onnx may be able to export the net"
        )
    return codes


class _Weights:
    """Collects the modules' weights, and finds those that are one parameter."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._owners: dict[int, str] = {}

    def add(self, node: LayerNode, code: Code, module: str) -> list[str]:
        """Add a module's weights; return the statements that share those it does not own."""
        ties = []
        blobs = node.layer.parameters_in_order if code.as_stored else []
        for blob, key in zip(blobs, code.weights, strict=False):
            name = _join(module, key)
            owner = self._owners.setdefault(id(blob), name)
            if owner != name and torch.equal(self.tensors[owner], code.weights[key]):
                ties.append(f"self.{name} = self.{owner}")
        self.tensors.update({_join(module, k): v for k, v in code.weights.items()})
        return ties


def _join(module: str, key: str) -> str:
    return f"{module}.{key}" if key else module


class _Names(dict[str, str]):
    """Maps each name of a net to a unique Python name that is not reserved."""

    def __init__(self, reserved: Iterable[str]) -> None:
        super().__init__()
        self._taken = {*reserved, *keyword.kwlist, *dir(builtins), "self"}

    def __missing__(self, name: str) -> str:
        self[name] = self.another(name)
        return self[name]

    def another(self, name: str) -> str:
        """Return a new Python name for this name, even if there is one already."""
        clean = re.sub(r"[^0-9A-Za-z_]+", "_", name).strip("_") or "n"
        clean = f"n{clean}" if clean[0].isdigit() else clean
        result, count = clean, 2
        while result in self._taken:
            result, count = f"{clean}_{count}", count + 1
        self._taken.add(result)
        return result


def _quoted(text: str) -> str:
    return f'"{text}"' if re.fullmatch(r"[\w ./:+-]*", text, re.ASCII) else ascii(text)


def _clean(text: str) -> str:
    """Keep only what is safe in a comment and in a docstring."""
    return re.sub(r"[^\w .,:/()+-]", "_", text)


def _location(node: LayerNode) -> str:
    """Return the position of a layer in the prototxt."""
    line = _clean(Path(node.layer.proto.source_line).name)
    return f"{line} {_clean(node.layer.name)} ({node.layer.type})".strip()


def _about(net: Net, outputs: Sequence[str]) -> str:
    """Return the text about the shapes of inputs and outputs."""
    batch = net.shapes[net.inputs[0]][:1] if net.inputs else ()
    rows = [
        f"{what} {_clean(name)}: {_shape_text(net.shapes[name], batch)}"
        for what, names in (("Input", net.inputs), ("Output", outputs))
        for name in names
    ]
    return "\n".join(rows)


def _shape_text(shape: Shape, batch: Shape) -> str:
    """Write a shape, with N for the batch or the timesteps."""
    has_batch = shape and shape[:1] == batch
    return str(("N", *shape[1:]) if has_batch else shape).replace("'", "")

"""Writes a net as PyTorch source that stands alone, and its weights as safetensors."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from ..errors import ExportError
from ..files import write_atomically
from ..net import Net, Step, read_net
from ..proto import caffe_pb2 as pb
from .deploy import deploy
from .pipeline import load_all_weights
from .torch_emitters import EMITTERS, Code, NoCodeError
from .torch_helpers import HELPERS

_HEAD = '''\
"""{title}

{about}
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

'''

_TAIL = '''

def load(weights: str | Path = Path(__file__).with_suffix(".safetensors")) -> {name}:
    """Return the net with its weights, as it is used: in evaluation mode."""
    net = {name}()
    net.load_state_dict(load_file(weights))
    return net.eval()
'''

_WIDTH = 100  # of a statement with its comment behind it
_OF_MODULE = {"annotations", "torch", "nn", "F", "Tensor", "Path", "load_file", "load", *HELPERS}


@dataclass
class Module:
    """A net as Python source, and its weights by their names in it."""

    source: str
    weights: dict[str, Tensor]


def write_torch(model: str | Path, weights: str | Path, output: str | Path) -> Path:
    """Write the deployed net as a Python file and beside it its weights, whose path is returned.

    Args:
        model: the net's prototxt, train/test or deploy.
        weights: its .caffemodel or .caffemodel.h5.
        output: the .py file; the weights get its name with ``.safetensors``.

    Raises:
        ExportError: a layer has no form in PyTorch here.
        CaffeKDError: net or weights are wrong.
    """
    output = Path(output)
    if output.suffix != ".py":
        raise ExportError(f"the module is a Python file, NAME.py. Received: {output}")
    net = Net(deploy(read_net(model), model), pb.TEST, model)
    load_all_weights(net, weights)
    module = to_torch(net, Path(model).name)
    target = output.with_suffix(".safetensors")
    write_atomically(target, save(module.weights))
    write_atomically(output, module.source.encode())
    return target


def to_torch(net: Net, file: str = "") -> Module:
    """Write a deployed net as a PyTorch module of its own.

    Modules bear the layers' names and variables the blobs', changed where Python asks for it. A
    blob that layers share is one parameter there, too.

    Args:
        net: the net with its weights.
        file: what to call its prototxt.

    Raises:
        ExportError: layers have no form in PyTorch here; the message lists them all.
    """
    steps = [step for step in net.steps if step.layer.type != "Input"]
    modules, blobs = _Names(dir(nn.Module())), _Names(_OF_MODULE)
    inputs = [blobs[name] for name in net.inputs]
    made: list[str] = []
    run: list[str] = []
    weights = _Weights()
    codes = _codes(steps, blobs)
    for step, code in zip(steps, codes, strict=True):
        value, place = code.value, _place(step)
        if code.module:
            name = modules[step.layer.name]
            made += _statement(f"self.{name} = {code.module}", place)
            made += weights.add(step, code, name)
            value, place = value.replace("{self}", f"self.{name}"), ""
        run += _statement(f"{', '.join(blobs[top] for top in step.tops)} = {value}", place)
    outputs = [(name, blobs[name]) for name in net.outputs]
    if len(outputs) == 1:
        run.append(f"return {outputs[0][1]}")
    else:
        run.append(f"return {{{', '.join(f'{ascii(name)}: {blob}' for name, blob in outputs)}}}")
    name = _Names(_OF_MODULE)[net.name[:1].upper() + net.name[1:] or "Net"]
    answer = "Tensor" if len(outputs) == 1 else "dict[str, Tensor]"
    of = f" of {_clean(file)}" if file else ""
    title = f"The net {_clean(net.name)}{of} in PyTorch, written by caffe_kd."
    helpers = "\n".join(HELPERS[h] for h in sorted({c.helper for c in codes if c.helper}))
    arguments = "".join(f", {blob}: Tensor" for blob in inputs)
    source = [
        _HEAD.format(title=title, about=_about(net)) + helpers + ("\n" if helpers else ""),
        f"class {name}(nn.Module):",
        "    def __init__(self) -> None:",
        "        super().__init__()",
        *(f"        {line}" for line in made),
        "",
        f"    def forward(self{arguments}) -> {answer}:",
        *(f"        {line}" for line in run),
    ]
    return Module("\n".join(source) + "\n" + _TAIL.format(name=name), weights.tensors)


def _codes(steps: Sequence[Step], blobs: _Names) -> list[Code]:
    """Ask the types' emitters, and gather what they cannot do.

    Raises:
        ExportError: there are such layers.
    """
    codes, problems = [], []
    for step in steps:
        kind = step.layer.type
        where = f"{step.layer.proto.source_line}: layer '{step.layer.name}' ({kind})".lstrip(": ")
        try:
            codes.append(EMITTERS[kind](step, [blobs[name] for name in step.bottoms]))
        except KeyError:
            problems.append(where)
        except NoCodeError as error:
            problems.append(f"{where}: {error}")
    if problems:
        raise ExportError(
            "these layers cannot be written as PyTorch code:\n  "
            + "\n  ".join(problems)
            + f"\nTypes that can: {', '.join(sorted(EMITTERS))}. Others may go by export_onnx"
        )
    return codes


class _Weights:
    """Gathers the modules' weights, and says which of them are one parameter."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._owners: dict[int, str] = {}

    def add(self, step: Step, code: Code, module: str) -> list[str]:
        """Take a module's weights; return the statements that share those it does not own."""
        ties = []
        blobs = step.layer.parameters_in_order if step.layer.type != "BatchNorm" else []
        for blob, key in zip(blobs, code.weights, strict=False):
            name = f"{module}.{key}"
            owner = self._owners.setdefault(id(blob), name)
            if owner != name and torch.equal(self.tensors[owner], code.weights[key]):
                ties.append(f"self.{name} = self.{owner}")
        self.tensors.update({f"{module}.{key}": value for key, value in code.weights.items()})
        return ties


class _Names(dict[str, str]):
    """Gives each name of a net a Python name, no two alike and none of the reserved ones."""

    def __init__(self, reserved: Iterable[str]) -> None:
        super().__init__()
        self._taken = {*reserved, *keyword.kwlist, *dir(builtins), "self"}

    def __missing__(self, name: str) -> str:
        plain = re.sub(r"[^0-9A-Za-z_]+", "_", name).strip("_") or "n"
        plain = f"n{plain}" if plain[0].isdigit() else plain
        result, count = plain, 2
        while result in self._taken:
            result, count = f"{plain}_{count}", count + 1
        self._taken.add(result)
        self[name] = result
        return result


def _clean(text: str) -> str:
    """Leave what is harmless in a comment and in a docstring."""
    return re.sub(r"[^\w .,:/()+-]", "_", text)


def _place(step: Step) -> str:
    """Tell where in the prototxt a layer stands."""
    line = _clean(Path(step.layer.proto.source_line).name)
    return f"{line} {_clean(step.layer.name)} ({step.layer.type})".strip()


def _statement(code: str, comment: str) -> list[str]:
    if not comment:
        return [code]
    joined = f"{code}  # {comment}"
    return [joined] if len(joined) + 8 <= _WIDTH else [f"# {comment}", code]


def _about(net: Net) -> str:
    """Tell the shapes of inputs and outputs."""
    rows = [
        f"{what} {_clean(name)}: (N, {', '.join(map(str, net.shapes[name][1:]))})"
        for what, names in (("Input", net.inputs), ("Output", net.outputs))
        for name in names
    ]
    return "\n".join(rows).replace(", )", ",)")

"""Compares a net's blobs with recorded ones, layer by layer, and records them.

The keys of a recording are names of blobs; ``in/<blob>`` is the value of an input and
``out/<blob>`` that of any other blob, as is a plain name. Where layers work in place, a blob's name
is its last value, and ``<blob>/<layer>`` the one that a layer before it made. ``logits``, where no
blob has the name, stands for what the Softmax at the end takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import DataError, NetError, WeightsError, did_you_mean
from ..layers.base import tops_of
from ..net import LayerNode, Net, read_net
from ..net.weights import lacking
from ..proto import caffe_pb2 as pb
from ..proto.binary import read_weights
from ..proto.filter import filter_net
from ..proto.sources import Source, source_of_layer
from ..proto.upgrade import Notes
from .recording import Arrays

RTOL, ATOL = 1e-4, 1e-5  # two engines add in different orders
_LOGITS = "logits"
_FROM_OUTSIDE = (Source.SAMPLES, Source.INPUT)
_SHOWN = 6

Values = list[list[Tensor]]  # of each layer


@dataclass
class Line:
    """One value that was compared.

    Attributes:
        key: the value's name, as in the recording.
        node: the layer that makes it.
        top: which of the layer's tops it is.
        got: what the net computed.
        want: what was recorded.
        difference: the greatest absolute difference; infinite where the shapes differ.
        scale: the greatest absolute recorded value.
        agrees: whether it is within the bounds.
    """

    key: str
    node: LayerNode
    top: int
    got: np.ndarray
    want: np.ndarray
    difference: float
    scale: float
    agrees: bool

    @property
    def verdict(self) -> str:
        """The result, in a word or two."""
        if self.got.shape != self.want.shape:
            return f"shape differs: recorded {_by(self.want.shape)}"
        return "agrees" if self.agrees else "DIFFERS"


@dataclass
class Comparison:
    """The result of a verification.

    Attributes:
        lines: the compared values in the order of the layers.
        notes: what of the recording or the net was left out, in words.
        inputs: the values of each layer's bottoms.
        given: the net's inputs.
    """

    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    inputs: Values = field(default_factory=list)
    given: Arrays = field(default_factory=dict)

    @property
    def first(self) -> Line | None:
        """The first value that differs, if any does."""
        return next((line for line in self.lines if not line.agrees), None)


# ---- the net


def build(
    model: str | Path,
    weights: Sequence[str],
    inputs: Mapping[str, np.ndarray],
    level: int = 0,
    stages: Sequence[str] = (),
) -> tuple[Net, list[str]]:
    """Build a net of phase TEST whose data comes from a recording.

    Data layers become Input layers of the recorded shapes. Layers that depend on inputs the
    recording lacks, such as a loss on labels, are left out.

    Returns:
        The net with its weights, and what was left out, in words.

    Raises:
        NetError: no input is in the recording, or one does not fit the net.
        WeightsError: the net has parameters and no weights are given, or they do not fit.
    """
    upgrades = Notes()
    read = read_net(model, upgrades)
    state = pb.NetState(phase=pb.TEST, level=level, stage=[*read.state.stage, *stages])
    param, notes = _with_inputs(filter_net(read, state), inputs, str(model))
    net = Net(param, pb.TEST, model)
    if net.params and not weights:
        raise WeightsError(
            f"net '{net.name}' has parameters in {len({p.layer.name for p in net.params})} layers: "
            "give their weights with -weights",
            str(model),
        )
    known = {layer.name for layer in read.layer}
    for path in weights:
        layers = read_weights(path)
        net.copy_weights(layers, path).check()
        lost = [f"'{w.name}'" for w in layers if w.blobs and w.name not in known]
        if lost:
            notes.append(f"{path}: no layer for the weights of {', '.join(lost[:_SHOWN])}")
    sentence = lacking(net)
    if sentence is not None:
        notes.append(sentence)
    return net, notes


def _with_inputs(param: Any, inputs: Mapping[str, np.ndarray], where: str) -> tuple[Any, list[str]]:
    result = type(param)()
    result.CopyFrom(param)
    del result.layer[:]
    missing: set[str] = set()
    sources: list[str] = []
    notes = []
    for layer in param.layer:
        if source_of_layer(layer) in _FROM_OUTSIDE:
            for index, top in enumerate(layer.top):
                sources.append(top)
                if top in inputs:
                    _check_input(layer, index, inputs[top])
                    result.layer.append(_input(layer, top, inputs[top]))
                else:
                    missing.add(top)
        elif missing.isdisjoint(layer.bottom):
            result.layer.append(layer)
        else:
            lacks = next(b for b in layer.bottom if b in missing)
            notes.append(f"layer '{layer.name}' ({layer.type}) is left out: it needs '{lacks}'")
            missing.update(top for top in layer.top if top not in layer.bottom)
    if sources and missing.issuperset(sources):
        names = ", ".join(f"in/{name}" for name in sources)
        raise NetError(
            f"no input is given: the recording has none of {names}. Record it with the inputs, or "
            "give them with -inputs",
            where,
        )
    return result, notes


def _check_input(layer: Any, index: int, value: np.ndarray) -> None:
    """Raise NetError for a recorded input whose axes or channels differ from the Input layer's."""
    shapes = list(layer.input_param.shape)
    if layer.type != "Input" or not shapes:
        return
    wanted = tuple(shapes[index if index < len(shapes) else 0].dim)
    if len(wanted) != value.ndim or wanted[1:2] != value.shape[1:2]:
        raise NetError(
            f"layer '{layer.name}' (Input): the recorded '{layer.top[index]}' does not fit. "
            f"Received: {_by(value.shape)}; the net's is {_by(wanted)}, whose batch and plane may "
            "differ",
            layer.source_line or None,
        )


def _input(layer: Any, top: str, value: np.ndarray) -> Any:
    result = pb.LayerParameter(name=top, type="Input", source_line=layer.source_line)
    result.top.append(top)
    result.input_param.shape.add().dim.extend(value.shape)
    return result


def inputs_of(arrays: Mapping[str, np.ndarray], tops: Sequence[str] = ()) -> Arrays:
    """Return the inputs of a recording: ``in/<blob>``, or the plain names among ``tops``."""
    given = {key.removeprefix("in/"): v for key, v in arrays.items() if key.startswith("in/")}
    return {name: arrays[name] for name in tops if name in arrays} | given


def input_names(model: str | Path) -> list[str]:
    """Return the input blobs of a net in phase TEST."""
    return [top for layer in _sources(model) for top in layer.top]


def _sources(model: str | Path) -> list[Any]:
    """Return the layers that give a net in phase TEST its values."""
    param = read_net(model, Notes())
    layers = filter_net(param, pb.NetState(phase=pb.TEST, stage=param.state.stage)).layer
    return [x for x in layers if source_of_layer(x) in _FROM_OUTSIDE]


def random_inputs(model: str | Path) -> Arrays:
    """Return standard normal numbers for the Input layers of a net in phase TEST.

    Raises:
        NetError: the net has other data layers, without the shape of their samples.
    """
    draw = np.random.default_rng(0)
    made: Arrays = {}
    for layer in _sources(model):
        shapes = [tuple(shape.dim) for shape in layer.input_param.shape]
        if layer.type != "Input" or not shapes:
            raise NetError(
                f"layer '{layer.name}' ({layer.type}) reads data: give the inputs to record with "
                f"in an .npz file, as in/{layer.top[0] if layer.top else 'data'}, with -inputs",
                layer.source_line or None,
            )
        for index, top in enumerate(layer.top):
            shape = shapes[index if index < len(shapes) else 0]
            made[top] = draw.standard_normal(shape, dtype=np.float32)
    return made


def run(
    net: Net, inputs: Mapping[str, np.ndarray]
) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """Run a net and return each layer's tops and bottoms, those that work in place too."""
    tops: Values = []
    bottoms: Values = []

    def keep(_layer: Any, given: tuple[Tensor, ...], made: Any) -> None:
        bottoms.append(list(given))
        tops.append(list(tops_of(made)))

    hooks = [node.layer.register_forward_hook(keep) for node in net.nodes]
    try:
        with torch.no_grad():
            net.forward({n: torch.from_numpy(_floats(inputs[n])) for n in net.inputs})
    finally:
        for hook in hooks:
            hook.remove()
    return tops, bottoms


def _floats(value: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(value, dtype=np.float32)


def value_names(net: Net) -> Iterator[tuple[int, int, str]]:
    """Yield node, top and name of each value that a layer computes, in the layers' order."""
    last = {top: node for node in net.nodes for top in node.tops}
    for number, node in enumerate(net.nodes):
        for index, top in enumerate(node.tops):
            if top not in net.inputs or node.bottoms:
                is_last = last[top] is node
                yield number, index, top if is_last else f"{top}/{node.layer.name}"


def record(net: Net, inputs: Mapping[str, np.ndarray]) -> Arrays:
    """Return what a recording of a net holds: its inputs and every value it computes."""
    tops, _ = run(net, inputs)
    values = {f"in/{name}": _floats(inputs[name]) for name in net.inputs}
    for number, index, name in value_names(net):
        values[f"out/{name}"] = tops[number][index].cpu().numpy()
    return values


# ---- comparing


def compare(
    net: Net,
    recording: Mapping[str, np.ndarray],
    inputs: Mapping[str, np.ndarray],
    rtol: float = RTOL,
    atol: float = ATOL,
) -> Comparison:
    """Run a net on a recording's inputs and compare its values with the recorded ones.

    A value agrees if it differs by at most ``atol + rtol * scale`` everywhere, ``scale`` being the
    greatest finite recorded value; NaN and infinity agree with themselves.

    Raises:
        DataError: the recording has no value of a blob of the net.
    """
    tops, bottoms = run(net, inputs)
    result = Comparison(inputs=bottoms, given={n: inputs[n] for n in net.inputs})
    wanted = _wanted(net, recording, result.notes)
    for number, index, name in value_names(net):
        if name in wanted:
            got = tops[number][index].cpu().numpy()
            want = np.asarray(wanted[name], np.float32)
            result.lines.append(_line(name, net.nodes[number], index, got, want, rtol, atol))
    if not result.lines:
        names = ", ".join(name for _, _, name in value_names(net))
        raise DataError(
            f"the recording has no value to compare. Received: {', '.join(recording)}. Expected: "
            f"some of the net's blobs, {names[:400]}"
        )
    return result


def _wanted(net: Net, recording: Mapping[str, np.ndarray], notes: list[str]) -> Arrays:
    """Return the recorded values by the net's names for them."""
    names = [name for _, _, name in value_names(net)]
    wanted: Arrays = {}
    lost = []
    for key, value in recording.items():
        name = key.removeprefix("out/")
        if key.startswith("in/") or key in net.inputs:
            continue
        if name not in names and name == _LOGITS:
            name = _logits(net) or name
        if name in names:
            wanted[name] = value
        else:
            lost.append(f"'{key}'{did_you_mean(name, names)}")
    if lost:
        more = f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
        notes.append(f"no blob of the net is recorded as {', '.join(lost[:_SHOWN])}{more}")
    return wanted


def _logits(net: Net) -> str | None:
    """Return the blob that the last Softmax takes, or the net's only output."""
    for node in reversed(net.nodes):
        if node.layer.type == "Softmax":
            return node.bottoms[0]
    return net.outputs[0] if len(net.outputs) == 1 else None


def _line(
    key: str,
    node: LayerNode,
    top: int,
    got: np.ndarray,
    want: np.ndarray,
    rtol: float,
    atol: float,
) -> Line:
    finite = np.abs(want[np.isfinite(want)])
    scale = float(finite.max()) if finite.size else 0.0
    if got.size == want.size == 1:  # a loss is a scalar here, and was one of 1 in old nets
        want = want.reshape(got.shape)
    if got.shape != want.shape:
        return Line(key, node, top, got, want, float("inf"), scale, agrees=False)
    difference = greatest_difference(got, want)
    agrees = difference <= atol + rtol * scale
    return Line(key, node, top, got, want, difference, scale, agrees)


def greatest_difference(got: np.ndarray, want: np.ndarray) -> float:
    """Return the greatest absolute difference; NaN and infinity equal themselves."""
    if not got.size:
        return 0.0
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0, np.abs(got - want))
    return float("inf") if np.isnan(difference).any() else float(difference.max())


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "a scalar"

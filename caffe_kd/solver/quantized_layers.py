"""Which layers of a student a solver's ``quantization`` takes in, and in how many bits."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from ..core.errors import SolverError, did_you_mean
from ..layers import Layer
from ..layers.shared import fake_quantize
from ..layers.shared.fake_quantize import FLOAT
from ..layers.shared.quantized_layer import widths
from ..net import Net
from ..proto import caffe_pb2 as pb

if TYPE_CHECKING:
    from .solver import Solver

_NORMS = ("BatchNorm", "BN")


def widths_of(solver: Solver) -> dict[str, tuple[int, int]]:
    """Return the bits of what a layer reads and of its weights, by the layers' names.

    Layers of which both are 32 are not among them.

    Raises:
        CaffeKDError: a setting is wrong, or a layer cannot be quantised.
    """
    settings, where = solver.param.quantization, solver.plan.where("quantization")
    _check(settings, where)
    if solver.param.snapshot_format == pb.SolverParameter.HDF5:
        raise SolverError(
            "the ranges of quantization lie in a snapshot's quantization_param, and HDF5 files "
            "hold weights alone: leave snapshot_format: HDF5 out",
            where,
        )
    found = {layer.name: _bits(layer, settings) for layer in _chosen(solver, settings, where)}
    bits = {name: pair for name, pair in found.items() if pair != (FLOAT, FLOAT)}
    _check_net(solver.net, bits, where)
    return bits


def _check(settings: Any, where: str | None) -> None:
    def fail(fact: str, name: str) -> None:
        value = getattr(settings, name)
        raise SolverError(f"quantization: {fact}. Received: {name}: {value:g}", where)

    for name in ("bw_params", "bw_layer_in"):
        bits = getattr(settings, name)
        if bits not in fake_quantize.BITS and bits != FLOAT:
            fail(f"{name} must be 2 to 8, or 32 for float32", name)
    if settings.calibration_iter < 1:
        fail("calibration_iter must be at least 1", "calibration_iter")
    has_freeze = settings.HasField("freeze_range_iter")
    if has_freeze and settings.freeze_range_iter <= settings.start_iter:
        fail(
            f"freeze_range_iter must be above start_iter, {settings.start_iter}",
            "freeze_range_iter",
        )
    if not 0 <= settings.momentum < 1:
        fail("momentum must be 0 to below 1", "momentum")


def _chosen(solver: Solver, settings: Any, where: str | None) -> list[Layer]:
    """Return the layers to quantise.

    Layers of the solver or the distiller, which are no part of the student that is deployed, are
    among them only if they are named.
    """
    teachers = tuple(f"{name}/" for name in solver.plan.frozen_names)
    own = {layer.name for layer in solver.plan.student.layer}
    layers = [node.layer for node in solver.net.nodes if not node.layer.name.startswith(teachers)]
    possible = [x for x in layers if x.output_axis is not None and not x.rounds_itself]
    names = [layer.name for layer in possible]
    for field in ("layer", "exclude"):
        for name in getattr(settings, field):
            if name not in names:
                raise SolverError(
                    f"quantization: the student has no layer '{name}' that multiplies by weights "
                    f"({field}).{did_you_mean(name, names)} It has: {', '.join(names) or 'none'}",
                    where,
                )
    wanted = set(settings.layer) or own.intersection(names)
    chosen = [x for x in possible if x.name in wanted and x.name not in settings.exclude]
    if not chosen:
        raise SolverError(
            "quantization: no layer is left to quantise. Layers that can be: "
            f"{', '.join(names) or 'none'}",
            where,
        )
    return chosen


def _bits(layer: Layer, settings: Any) -> tuple[int, int]:
    """Return the bits of the value a layer reads and of its weights: its own over the solver's."""
    given = pb.QuantizationParameter()
    for name in ("bw_layer_in", "bw_params"):
        own = layer.proto.quantization_param
        setattr(given, name, getattr(own if own.HasField(name) else settings, name))
    return widths(layer, given)


def _check_net(net: Net, names: Collection[str], where: str | None) -> None:
    """Refuse layers of several bottoms, and normalisation that should have been folded first."""
    tops: dict[str, str] = {}  # blob → the quantised layer that wrote it last
    for node in net.nodes:
        layer = node.layer
        if layer.type in _NORMS and node.bottoms[0] in tops:
            raise SolverError(
                f"layer '{layer.name}' ({layer.type}) normalises what the quantised layer "
                f"'{tops[node.bottoms[0]]}' computes. Fold it into that layer first, with caffe_kd "
                "merge_layers, and train the net that it writes; or name the layer in exclude",
                where,
            )
        for blob in node.tops:
            tops.pop(blob, None)
        if layer.name in names:
            if len(node.bottoms) != 1:
                raise SolverError(
                    f"layer '{layer.name}' ({layer.type}) has {len(node.bottoms)} bottoms, and a "
                    "quantised layer reads one. Write a layer for each, with param names to share "
                    "the weights; or name it in exclude",
                    where,
                )
            tops.update((blob, layer.name) for blob in node.tops)

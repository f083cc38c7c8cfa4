"""Checks of a training with rounded values, and of layers that ask for rounding."""

from __future__ import annotations

from ..analysis.reading import Target
from ..analysis.view import Node
from ..layers import layer_types
from ..layers.shared.fake_quantize import FLOAT
from ..layers.shared.quantized_layer import has_steps
from .findings import Occurrence, Occurrences, target_check

_NORMS = ("BatchNorm", "BN")
_FIELDS = ("bw_layer_in", "bw_params")


def quantized(target: Target) -> dict[str, tuple[int, int]]:
    """Return the bits of what a layer reads and of its weights, by the names of those rounded.

    Empty where the solver has no ``quantization``.
    """
    view, solver = target.training(), target.solver
    if view is None or solver is None or not solver.HasField("quantization"):
        return {}
    settings = solver.quantization
    own = {layer.name for layer in target.student.layer} if target.student is not None else set()
    wanted = (set(settings.layer) or own) - set(settings.exclude)
    found: dict[str, tuple[int, int]] = {}
    for node in view.nodes:
        if node.proto.name in wanted and not view.of_teacher(node) and _multiplies(node):
            given = node.proto.quantization_param
            bits = [getattr(given if given.HasField(name) else settings, name) for name in _FIELDS]
            if bits != [FLOAT, FLOAT]:
                found[node.proto.name] = bits[0], bits[1]
    return found


def _multiplies(node: Node) -> bool:
    kind = layer_types().get(node.type)
    return kind is not None and kind.output_axis is not None and not kind.rounds_itself


@target_check(
    "numbers",
    why="A chip folds normalisation into the weights before it rounds them. A training that "
    "normalises behind rounded values would be for other weights, and is refused.",
    do="Fold it first, with caffe_kd merge_layers -model NET -weights W -output NAME, and train "
    "NAME.prototxt from NAME.caffemodel; or name the layer in quantization { exclude }.",
)
def normalised_after_rounding(target: Target) -> Occurrences:
    """Normalisation behind a layer that the solver's quantization rounds."""
    names, view = quantized(target), target.training()
    for node in view.nodes if names and view is not None else ():
        before = node.parents[0] if node.type in _NORMS and node.parents else None
        if before is not None and before.proto.name in names:
            fact = (
                f"{node.called} normalises what the quantised layer '{before.proto.name}' computes"
            )
            yield Occurrence("error", node.location, fact)


@target_check(
    "numbers",
    why="quantization_param says how many bits, and not which values they stand for: a training "
    "finds those. Until then the layer computes in float32.",
    do="Train with quantization { } in the solver, or remove the block.",
)
def widths_without_ranges(target: Target) -> Occurrences:
    """A quantization_param of bits alone, where nothing finds ranges."""
    if not target.views or (target.solver is not None and target.solver.HasField("quantization")):
        return
    view = target.views[0]
    for node in view.nodes:
        given = node.proto.quantization_param
        bits = [getattr(given, name) for name in _FIELDS] if _multiplies(node) else [FLOAT, FLOAT]
        if bits != [FLOAT, FLOAT] and not has_steps(given) and not view.of_teacher(node):
            if not given.scale_params and not given.fl_params:  # of forks, which have ranges
                fact = f"{node.called} has bits and no ranges: it computes in float32"
                yield Occurrence("warning", node.location, fact)


@target_check(
    "solver",
    why="Before start_iter the net is float32 and mostly better, so the best test is likely one of "
    "those, and its file has no ranges.",
    do="Leave start_iter out and start from trained weights, or train without snapshot_best and "
    "early_stopping.",
)
def best_before_rounding(target: Target) -> Occurrences:
    """snapshot_best or early_stopping while values are not rounded yet."""
    if not quantized(target):
        return
    start = target.solver.quantization.start_iter
    for field in ("snapshot_best", "early_stopping"):
        if start and target.solver.HasField(field):
            fact = f"{field} compares nets from before and after iteration {start}, where rounding "
            yield Occurrence("warning", target.where(field), f"{fact}begins")

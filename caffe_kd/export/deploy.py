"""Makes the deployed net of a train/test net, as messages.

The layers that lead to the predictions are kept; labels, losses, metrics, teachers and layers that
depend on them are removed, as are settings that only training needs. BVLC Caffe reads the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import CaffeKDError, ExportError, UsageError, did_you_mean
from ..layers import Layer, Shape, layer_types
from ..net import Net
from ..net.sample_shapes import guessed_shape, with_batch
from ..proto import caffe_pb2 as pb
from ..proto.filter import filter_net, made_elsewhere
from ..proto.sources import DATA, Source, source_of_layer

TEACHER = "teacher/"  # begins the names of a composed net's teacher layers and blobs

# They only report on the net and are not part of its outputs.
_OBSERVERS = {"Accuracy", "HDF5Output", "LearningRate", "Silence"}
_BECOMES_INPUT = (Source.SAMPLES, Source.VALUES)
_TRAINING_FIELDS = (
    *("include", "exclude", "propagate_down", "blobs"),
    *("loss_weight", "loss_weight_schedule", "frozen"),
)


@dataclass(frozen=True)
class DeployOptions:
    """What to deploy, where the prototxt alone does not determine it.

    Attributes:
        level: the net's level; 0: as in the net's own ``state``.
        stages: the net's stages, besides those of its own ``state``.
        input_shapes: the inputs' shapes by blob, N,C,H,W or C,H,W; under "" for the first top of
            each data layer.
        outputs: the blobs to deploy; empty: the net's predictions.
    """

    level: int = 0
    stages: Sequence[str] = ()
    input_shapes: Mapping[str, Shape] = field(default_factory=dict)
    outputs: Sequence[str] = ()

    def state(self, param: Any) -> Any:
        """Return the NetState for deploying a net."""
        stages = [*param.state.stage, *self.stages]
        return pb.NetState(phase=pb.TEST, level=self.level or param.state.level, stage=stages)

    def shape_of(self, top: str, layer: Any) -> Shape | None:
        """Return the shape given for a top of a layer without bottoms, or None."""
        unnamed = self.input_shapes.get("") if top == layer.top[0] else None
        given = self.input_shapes.get(top, unnamed)
        return None if given is None else with_batch(given)


def deploy(param: Any, file: str | Path | None = None, options: DeployOptions | None = None) -> Any:
    """Return the net that is deployed, as a NetParameter.

    The net is filtered for phase TEST (and the stages of its own ``state``). Its predictions are

    * the bottoms of losses and accuracies that get a gradient, so neither labels nor a teacher's
      logits,
    * and every other top that no layer consumes, such as a Softmax at the end,

    or the blobs that ``options.outputs`` names; later layers are left out. A data layer
    becomes an Input layer per top that is still needed, with batch 1 and the sample's shape; so the
    data must exist, or the shape be given. Where phase TEST has no data layer for a blob, the one
    of another phase or stage is used. A SoftmaxWithLoss with a second top becomes the Softmax that
    computes it. Of a ``param`` only the name of a shared parameter is kept; fillers are removed.

    Args:
        param: a train/test, composed or deploy net in the current format.
        file: where it was read, for relative paths of the data.
        options: what else determines the net.

    Raises:
        ExportError: the net has no prediction or no input, or a sample's shape cannot be found.
        UsageError: the net has no such output or input.
        NetError: a layer has include and exclude rules.
    """
    options = options or DeployOptions()
    layers = [_without_loss(layer) for layer in _layers_of(param, options)]
    if options.outputs:
        _check_names("outputs", options.outputs, [top for layer in layers for top in layer.top])
        kept, roots = layers, set(options.outputs)
    else:
        kept, roots = _split(layers)
    _check_names("input_shape", options.input_shapes, _inputs_of([*layers, *param.layer]))
    needed = _leading_to(roots, kept)
    result = pb.NetParameter(name=param.name)
    makers = [layer for layer in [*layers, *param.layer] if _is_data(layer)]
    for layer in kept:
        tops = [top for top in layer.top if top in needed]
        if not tops:
            continue
        if _is_data(layer):
            for top in tops:
                shape = options.shape_of(top, layer) or _sample_shape(top, makers, file)
                result.layer.append(_input(layer, top, shape))
        else:
            result.layer.append(_with_shapes(_cleaned(layer, tops), options))
    _check_inputs(result, param, file, options)
    return result


def images_of(param: Any, options: DeployOptions | None = None) -> dict[str, Any]:
    """Return the data layer of each blob of images, the first top of a layer that transforms.

    In phase TEST; layers such as HDF5Data, which transform nothing, are left out.
    """
    layers = [x for x in _layers_of(param, options or DeployOptions()) if _is_data(x)]
    refusing = {"HDF5Data", "DummyData", "MemoryData", "Python"}
    return {layer.top[0]: layer for layer in layers if layer.top and layer.type not in refusing}


def stages_asked_for(param: Any) -> list[str]:
    """Return the stages that layers of phase TEST depend on."""
    rules = [r for x in param.layer for r in [*x.include, *x.exclude]]
    in_test = [r for r in rules if not r.HasField("phase") or r.phase == pb.TEST]
    return sorted({stage for rule in in_test for stage in [*rule.stage, *rule.not_stage]})


def is_left_out(kind: type[Layer]) -> bool:
    """Whether layers of a type only score or report the outputs."""
    return kind.is_loss or kind.type in _OBSERVERS


def becomes_input(kind: type[Layer]) -> bool:
    """Whether layers of a type are inputs of the deployed net, or have inputs in their place."""
    return kind.bottoms == (0, 0) and kind.brings in DATA


def _is_data(layer: Any) -> bool:
    return source_of_layer(layer) in _BECOMES_INPUT


def _layers_of(param: Any, options: DeployOptions) -> list[Any]:
    """Return the layers of phase TEST, after those of other phases that produce its missing blobs.

    The data of a net whose only data layer is in phase TRAIN, or in another stage, is still
    its input; so is a blob whose shape is given.
    """
    layers = list(filter_net(param, options.state(param)).layer)
    sources = [layer for layer in param.layer if _is_source(layer)]
    brought: list[Any] = []
    made: set[str] = set()
    for layer in layers:
        for bottom in layer.bottom:
            if not bottom or bottom in made:
                continue
            source = next((x for x in sources if bottom in x.top), None)
            if source is None and bottom in options.input_shapes:
                source = _input(layer, bottom, with_batch(options.input_shapes[bottom]))
            if source is not None and source not in brought:
                brought.append(source)
                made.update(source.top)
        made.update(layer.top)
    return [*brought, *layers]


def _check_inputs(result: Any, param: Any, file: str | Path | None, options: DeployOptions) -> None:
    """Refuse a net without an input, or with a blob that no layer produces."""
    if not any(layer.bottom for layer in result.layer):
        raise ExportError(
            f"net '{param.name}': nothing to export: in phase TEST no layer leads from an input "
            "to a prediction",
            str(file) if file else None,
        )
    made: set[str] = set()
    for layer in result.layer:
        for index, bottom in enumerate(layer.bottom):
            if bottom and bottom not in made:
                elsewhere = made_elsewhere(param, options.state(param), bottom)
                raise ExportError(
                    f"layer '{layer.name}' ({layer.type}): Unknown bottom blob '{bottom}' (bottom "
                    f"index {index}): no layer before this one produces it in phase TEST"
                    f"{elsewhere or did_you_mean(bottom, made)}. If it is an input, give its "
                    f"shape: -input_shape {bottom}=1,C,H,W",
                    layer.source_line or None,
                )
        made.update(layer.top)


def _check_names(flag: str, given: Iterable[str], known: Iterable[str]) -> None:
    known = list(dict.fromkeys(known))
    for name in given:
        if name and name not in known:
            what = "blob" if flag == "outputs" else "input"
            raise UsageError(
                f"-{flag} {name}: the net has no such {what} in phase TEST."
                f"{did_you_mean(name, known)} {what.capitalize()}s: {', '.join(known)}"
            )


def _inputs_of(layers: Iterable[Any]) -> list[str]:
    return [top for layer in layers if _is_source(layer) for top in layer.top]


def _with_shapes(layer: Any, options: DeployOptions) -> Any:
    """Give an Input layer the shapes that are given for its tops."""
    if layer.type == "Input":
        shapes = [options.shape_of(top, layer) for top in layer.top]
        old = list(layer.input_param.shape)
        if any(shapes):
            if len(old) != len(shapes):  # one shape for all tops, or none
                old = [old[0] if old else pb.BlobShape()] * len(shapes)
            new = [pb.BlobShape(dim=s) if s else o for s, o in zip(shapes, old, strict=True)]
            del layer.input_param.shape[:]
            layer.input_param.shape.extend(new)
    return layer


def _is_source(layer: Any) -> bool:
    return source_of_layer(layer) not in (None, Source.PARAMETER)


def _without_loss(layer: Any) -> Any:
    """Return the Softmax of a SoftmaxWithLoss whose probabilities are an output, else the layer."""
    if layer.type != "SoftmaxWithLoss" or len(layer.top) < 2 or len(layer.bottom) < 1:
        return layer
    softmax = pb.LayerParameter(name=layer.name, type="Softmax", source_line=layer.source_line)
    softmax.bottom.append(layer.bottom[0])
    softmax.top.append(layer.top[1])
    if layer.HasField("softmax_param"):
        softmax.softmax_param.CopyFrom(layer.softmax_param)
    return softmax


def _split(layers: list[Any]) -> tuple[list[Any], set[str]]:
    """Return the layers that not only training needs, and the predictions' names."""
    types = layer_types()
    sources = {top for layer in layers if _is_source(layer) for top in layer.top}
    kept: list[Any] = []
    dropped: list[Any] = []
    of_training: set[str] = set()  # blobs
    for layer in layers:
        kind = types.get(layer.type)
        scores = kind is not None and is_left_out(kind)
        of_teacher = layer.name.startswith(TEACHER)
        if scores or of_teacher or not of_training.isdisjoint(layer.bottom):
            dropped.append(layer)
            of_training.update(set(layer.top) - set(layer.bottom))
        else:
            kept.append(layer)
    for layer in reversed(kept.copy()):
        if _only_trains(layer) and not _is_used(layer, kept):
            kept.remove(layer)
            dropped.append(layer)
            of_training.update(set(layer.top) - set(layer.bottom))
    scored = set(_scored(dropped, of_training, sources))
    taken = {bottom for layer in layers for bottom in layer.bottom}
    loose = {top for layer in kept if not _is_source(layer) for top in layer.top} - taken
    return kept, scored | loose


def _only_trains(layer: Any) -> bool:
    """Return whether a layer only serves the objective, if no other layer needs it.

    Where logits are softened for a loss, the net's output is the logits.
    """
    return layer.type == "SoftmaxWithTemperature" or any(layer.loss_weight)


def _is_used(layer: Any, kept: list[Any]) -> bool:
    return any(not set(layer.top).isdisjoint(other.bottom) for other in kept if other is not layer)


def _scored(dropped: Iterable[Any], of_training: set[str], sources: set[str]) -> Iterator[str]:
    """Yield the inputs of losses and metrics, other than data, labels and teachers.

    A loss with a teacher is used only if there is no other loss: its bottom may be a blob that
    exists only to match the teacher, such as a regressor.
    """
    types = layer_types()
    found: dict[bool, list[str]] = {False: [], True: []}
    for layer in dropped:
        if layer.name.startswith(TEACHER) or layer.type == "Silence":
            continue
        constant: tuple[int, ...] = ()
        if layer.type == "Accuracy":  # it gives no gradient at all
            constant = (1,)
        elif layer.type in types:
            constant = types[layer.type].constant_bottoms
        with_teacher = not of_training.isdisjoint(layer.bottom)
        for index, bottom in enumerate(layer.bottom):
            if bottom and index not in constant and bottom not in of_training | sources:
                found[with_teacher].append(bottom)
    yield from found[False] or found[True]


def _leading_to(roots: set[str], layers: list[Any]) -> set[str]:
    """Return the roots and the blobs they are computed from."""
    needed = set(roots)
    for layer in reversed(layers):
        if not needed.isdisjoint(layer.top):
            needed.update(layer.bottom)
            if not _is_source(layer):
                needed.update(layer.top)
    return needed


def _input(layer: Any, top: str, shape: Shape) -> Any:
    result = pb.LayerParameter(name=top, type="Input", source_line=layer.source_line)
    result.top.append(top)
    result.input_param.shape.add().dim.extend(shape)
    return result


def _sample_shape(top: str, makers: list[Any], file: str | Path | None) -> Shape:
    """Return a data top's shape for batch 1, from the first layer of any phase with its data."""
    problem: CaffeKDError | None = None
    first = None
    for layer in makers:
        if top not in layer.top:
            continue
        first = first or layer
        try:
            return (1, *Net(pb.NetParameter(layer=[layer]), pb.TEST, file).shapes[top][1:])
        except CaffeKDError as error:
            problem = problem or error
    assert first is not None
    shape, reason = guessed_shape(first, Path(file) if file else None)
    if shape is None or top != first.top[0]:
        numbers, reason = "1,C,H,W", "with the numbers of channels, rows and columns"
    else:
        numbers = ",".join(map(str, with_batch(shape)))
    raise ExportError(
        f"the shape of the net's input '{top}' is that of the data, which cannot be read: "
        f"{problem}. Restore the data, or give the shape: -input_shape {top}={numbers} "
        f"({reason})"
    ) from problem


def _cleaned(layer: Any, tops: list[str]) -> Any:
    """Return a copy of a layer without what only training needs."""
    result = pb.LayerParameter()
    result.CopyFrom(layer)
    for name in _TRAINING_FIELDS:
        result.ClearField(name)
    if result.phase == pb.TEST:
        result.ClearField("phase")
    if layer.type == "Input":
        _keep_tops(result, tops)
    for spec in result.param:
        spec.ClearField("lr_mult")
        spec.ClearField("decay_mult")
    if not any(spec.name for spec in result.param):
        result.ClearField("param")
    for descriptor, value in result.ListFields():
        if descriptor.message_type is not None and not descriptor.is_repeated:
            _clear_fillers(value)
    return result


def _keep_tops(layer: Any, tops: list[str]) -> None:
    """Keep only the needed tops of an Input layer, with their shapes."""
    shapes = list(layer.input_param.shape)
    if len(shapes) == len(layer.top):
        kept = [s for s, top in zip(shapes, list(layer.top), strict=True) if top in tops]
        del layer.input_param.shape[:]
        layer.input_param.shape.extend(kept)
    layer.top[:] = tops


def _clear_fillers(message: Any) -> None:
    for descriptor, _ in message.ListFields():
        if getattr(descriptor.message_type, "name", "") == "FillerParameter":
            message.ClearField(descriptor.name)

"""From a train/test net to the net that is deployed: message → message.

What remains of the net is what leads to its predictions; labels, losses, measurements, teachers and
what hangs on them are gone, and so is what only training needs to know. The result is a net of the
original Caffe's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import CaffeKDError, ExportError
from ..layers import Layer, Shape, layer_types
from ..net import Net
from ..proto import caffe_pb2 as pb
from ..proto.filter import filter_net

TEACHER = "teacher/"  # begins the names of a composed net's teacher layers and blobs

# They look at the net from outside and are not part of its answer.
_OBSERVERS = {"Accuracy", "HDF5Output", "LearningRate", "Silence"}
# They make no data, though they have no bottoms.
_NOT_DATA = {"Input", "LearningRate", "Parameter"}
_TRAINING_FIELDS = (
    *("include", "exclude", "propagate_down", "blobs"),
    *("loss_weight", "loss_weight_schedule", "frozen"),
)


def deploy(param: Any, file: str | Path | None = None) -> Any:
    """Return the net that is deployed, as a NetParameter.

    The net is filtered for phase TEST (and the stages of its own ``state``). Its predictions are

    * what losses and accuracies judge: their bottoms that get a gradient, labels and a teacher's
      logits being those that get none,
    * and every other top that no layer takes, such as a Softmax at the end.

    A data layer becomes an Input layer per top that is still needed, with batch 1 and the record's
    shape; so the database must be there, or an Input layer in its place. A SoftmaxWithLoss with a
    second top becomes the Softmax that makes it. Of a ``param`` only the name of a shared parameter
    is kept; fillers go.

    Args:
        param: a train/test, composed or deploy net in the current format.
        file: where it was read, for relative paths of the data.

    Raises:
        ExportError: the net has no prediction, or a record's shape cannot be found.
        NetError: a layer has include and exclude rules.
    """
    state = pb.NetState(phase=pb.TEST, level=param.state.level, stage=param.state.stage)
    layers = [_without_loss(layer) for layer in filter_net(param, state).layer]
    kept, roots = _split(layers)
    needed = _leading_to(roots, kept)
    result = pb.NetParameter(name=param.name)
    makers = [layer for layer in [*layers, *param.layer] if _is_data(layer)]
    for layer in kept:
        tops = [top for top in layer.top if top in needed]
        if not tops:
            continue
        if _is_data(layer):
            for top in tops:
                result.layer.append(_input(layer, top, _record_shape(top, makers, file)))
        else:
            result.layer.append(_cleaned(layer, tops))
    if not any(layer.bottom for layer in result.layer):
        raise ExportError(
            f"net '{param.name}': nothing to export: in phase TEST no layer leads from an input "
            "to a prediction",
            str(file) if file else None,
        )
    return result


def images_of(param: Any) -> dict[str, Any]:
    """Return the data layer behind each blob of images, the first top of a layer that transforms.

    In phase TEST; layers such as HDF5Data, which transform nothing, are left out.
    """
    state = pb.NetState(phase=pb.TEST, level=param.state.level, stage=param.state.stage)
    layers = [layer for layer in filter_net(param, state).layer if _is_data(layer)]
    refusing = {"HDF5Data", "DummyData", "MemoryData", "Python"}
    return {layer.top[0]: layer for layer in layers if layer.top and layer.type not in refusing}


def is_left_out(kind: type[Layer]) -> bool:
    """Whether layers of a type only judge or show what the net does."""
    return kind.is_loss or kind.type in _OBSERVERS


def becomes_input(kind: type[Layer]) -> bool:
    """Whether layers of a type are data, in whose place the deployed net has inputs."""
    return kind.bottoms == (0, 0) and kind.type not in _NOT_DATA


def _is_data(layer: Any) -> bool:
    return not any(layer.bottom) and layer.type not in _NOT_DATA


def _is_source(layer: Any) -> bool:
    return not any(layer.bottom) and layer.type != "Parameter"


def _without_loss(layer: Any) -> Any:
    """Return the Softmax in a SoftmaxWithLoss whose probabilities are asked for, else the layer."""
    if layer.type != "SoftmaxWithLoss" or len(layer.top) < 2 or len(layer.bottom) < 1:
        return layer
    softmax = pb.LayerParameter(name=layer.name, type="Softmax", source_line=layer.source_line)
    softmax.bottom.append(layer.bottom[0])
    softmax.top.append(layer.top[1])
    if layer.HasField("softmax_param"):
        softmax.softmax_param.CopyFrom(layer.softmax_param)
    return softmax


def _split(layers: list[Any]) -> tuple[list[Any], set[str]]:
    """Return the layers that are not there for training alone, and the predictions' names."""
    types = layer_types()
    sources = {top for layer in layers if _is_source(layer) for top in layer.top}
    kept: list[Any] = []
    dropped: list[Any] = []
    of_training: set[str] = set()  # blobs
    for layer in layers:
        kind = types.get(layer.type)
        judges = kind is not None and is_left_out(kind)
        of_teacher = layer.name.startswith(TEACHER)
        if judges or of_teacher or not of_training.isdisjoint(layer.bottom):
            dropped.append(layer)
            of_training.update(set(layer.top) - set(layer.bottom))
        else:
            kept.append(layer)
    for layer in reversed(kept.copy()):
        if _only_trains(layer) and not _is_used(layer, kept):
            kept.remove(layer)
            dropped.append(layer)
            of_training.update(set(layer.top) - set(layer.bottom))
    judged = set(_judged(dropped, of_training, sources))
    taken = {bottom for layer in layers for bottom in layer.bottom}
    loose = {top for layer in kept if not _is_source(layer) for top in layer.top} - taken
    return kept, judged | loose


def _only_trains(layer: Any) -> bool:
    """Say whether a layer is there for the objective, if no other layer needs it.

    Logits that are softened for a loss are judged; the net's answer is the logits.
    """
    return layer.type == "SoftmaxWithTemperature" or any(layer.loss_weight)


def _is_used(layer: Any, kept: list[Any]) -> bool:
    return any(not set(layer.top).isdisjoint(other.bottom) for other in kept if other is not layer)


def _judged(dropped: Iterable[Any], of_training: set[str], sources: set[str]) -> Iterator[str]:
    """Yield what losses and measurements judge, other than data, labels and teachers.

    A loss between the student and a teacher, or what was made of one, is asked only where no other
    is: beside the logits it may hold something that was made for the teacher's sake.
    """
    types = layer_types()
    found: dict[bool, list[str]] = {False: [], True: []}
    for layer in dropped:
        if layer.name.startswith(TEACHER) or layer.type == "Silence":
            continue
        constant: tuple[int, ...] = ()
        if layer.type == "Accuracy":  # it gives no gradient to either
            constant = (1,)
        elif layer.type in types:
            constant = types[layer.type].constant_bottoms
        with_teacher = not of_training.isdisjoint(layer.bottom)
        for index, bottom in enumerate(layer.bottom):
            if bottom and index not in constant and bottom not in of_training | sources:
                found[with_teacher].append(bottom)
    yield from found[False] or found[True]


def _leading_to(roots: set[str], layers: list[Any]) -> set[str]:
    """Return the blobs that the roots are made of, and the roots."""
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
    result.input_param.shape.add().dim.extend((1, *shape[1:]))
    return result


def _record_shape(top: str, makers: list[Any], file: str | Path | None) -> Shape:
    """Return a data top's shape, from the first layer of either phase whose data is there."""
    problem: CaffeKDError | None = None
    place = None
    for layer in makers:
        if top not in layer.top:
            continue
        place = place or layer
        try:
            return Net(pb.NetParameter(layer=[layer]), pb.TEST, file).shapes[top]
        except CaffeKDError as error:
            problem = problem or error
    assert place is not None
    raise ExportError(
        f"the shape of the net's input '{top}' is that of the data, which cannot be read: "
        f"{problem}. Bring the data back, or put this in place of layer '{place.name}', with the "
        f'numbers of channels, rows and columns: layer {{ name: "{top}" type: "Input" '
        f'top: "{top}" input_param {{ shape {{ dim: 1 dim: C dim: H dim: W }} }} }}'
    ) from problem


def _cleaned(layer: Any, tops: list[str]) -> Any:
    """Return a copy of a layer without what only training needs."""
    result = pb.LayerParameter()
    result.CopyFrom(layer)
    for field in _TRAINING_FIELDS:
        result.ClearField(field)
    if result.phase == pb.TEST:
        result.ClearField("phase")
    if layer.type == "Input":
        _keep_tops(result, tops)
    for spec in result.param:
        spec.ClearField("lr_mult")
        spec.ClearField("decay_mult")
    if not any(spec.name for spec in result.param):
        result.ClearField("param")
    for field, value in result.ListFields():
        if field.message_type is not None and not field.is_repeated:
            _clear_fillers(value)
    return result


def _keep_tops(layer: Any, tops: list[str]) -> None:
    """Leave those tops to an Input layer that are needed, with their shapes."""
    shapes = list(layer.input_param.shape)
    if len(shapes) == len(layer.top):
        kept = [s for s, top in zip(shapes, list(layer.top), strict=True) if top in tops]
        del layer.input_param.shape[:]
        layer.input_param.shape.extend(kept)
    layer.top[:] = tops


def _clear_fillers(message: Any) -> None:
    for field, _ in message.ListFields():
        if field.message_type is not None and field.message_type.name == "FillerParameter":
            message.ClearField(field.name)

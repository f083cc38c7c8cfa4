"""Handles fields that only forks know, which the text reader keeps in each message's ``foreign``.

``settle`` drops those that change no result and moves those that have a field here; ``check``
refuses the others. Between the two a net can be upgraded, composed and printed with all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from ..core.errors import CaffeKDError, misspelt
from . import text
from .dialects import LAYER_TYPES, NO_SUCH_LAYER, V1_TYPES, Rule, rule_for, rule_for_word
from .user_blocks import field_of

_HOLES = ("hole", "hole_h", "hole_w")
_ROUND_MODES = {"true": "CEIL", "1": "CEIL", "false": "FLOOR", "0": "FLOOR"}
_DATA = ("data_param", "image_data_param", "window_data_param")
OWN_LAYER = (
    "Remove it if the layer does not need it, or write the layer as a type of your own, with a "
    "block of its own, in a file for -layers"
)
_SKIPPED = ("BlobProto", "ForeignField")  # a blob may hold millions of numbers


def settle(message: Any) -> list[str]:
    """Drop and move what can be, in place, here and in every message below; return messages.

    Returns:
        One line for each field of a fork, however often it occurs, with the first location.
    """
    outcomes: dict[str, list[str]] = {}
    for _, owner in _owners(message):
        for entry in _taken(owner):
            outcome = _outcome(owner, entry)
            if outcome is None:
                owner.foreign.append(entry)
            else:
                outcomes.setdefault(outcome, []).append(entry.source_line)
    moves = [_move(layer) for layer in _layers(message)]
    if message.DESCRIPTOR.name == "SolverParameter":
        moves.append(_move_devices(message))
    for outcome, where in chain.from_iterable(moves):
        outcomes.setdefault(outcome, []).append(where)
    return [_line(outcome, locations) for outcome, locations in outcomes.items()]


def can_settle(message: Any) -> bool:
    """Return whether ``settle`` would do anything."""
    if next(_owners(message), None) is None:
        return False
    copy = type(message)()
    copy.CopyFrom(message)
    return bool(settle(copy))


def check(message: Any, what: str, error: Callable[[str, str | None], CaffeKDError]) -> None:
    """Raise an error for the first remaining field of a fork in a message or below.

    A net's layers are skipped: each is checked where it is built.

    Args:
        message: a net, layer or solver.
        what: what it is called in the error.
        error: makes the error from a message and a location.
    """
    for path, owner in _owners(message, into_layers=False):
        for entry in owner.foreign:
            raise error(f"{what}: {_refusal(owner, entry, path)}", entry.source_line or None)


def _refusal(owner: Any, entry: Any, path: str) -> str:
    """Return why a field cannot be used, and what to do."""
    name, value = parts(entry)
    rule = _rule(owner, name, value)
    if rule is not None:
        shown = f"{path}{name}" + ("" if "\n" in value else f": {value[:40]}")
        return (
            f"'{shown}' is of {rule.fork} and would change the results, but is not implemented "
            f"here: {rule.why}"
        )
    kind = owner.DESCRIPTOR
    lacks = f"{kind.name} has no field named '{name[:100]}'."
    near = misspelt(name, [n for n in kind.fields_by_name if n not in text.HIDDEN])
    if near:
        return lacks + near
    is_layers = kind.name.endswith("LayerParameter") or path
    do = OWN_LAYER if is_layers else "Remove it if the results do not depend on it"
    return f"{lacks} It belongs to a fork of Caffe and is not implemented here. {do}"


def of_unknown_type(layer: Any) -> str:
    """Return an unknown layer type's fork, judging by its blocks; empty if Caffe knows them all."""
    if layer.type in LAYER_TYPES:
        return LAYER_TYPES[layer.type]
    for entry in layer.foreign:
        name, value = parts(entry)
        if value.startswith("{"):
            rule = _rule(layer, name, value)
            fork, why = (rule.fork, rule.why) if rule else ("a fork of Caffe", NO_SUCH_LAYER)
            return f"with its block '{name[:100]}' it belongs to {fork}; {why}. {OWN_LAYER}"
    return ""


def adopt_blocks(net: Any) -> None:
    """Read blocks of the user's own layer types that were kept before the types were known."""
    for layer in net.layer:
        for entry in _taken(layer) if layer.foreign else ():
            if field_of(layer.DESCRIPTOR, parts(entry)[0]) is None:
                layer.foreign.append(entry)
            else:
                _parse(entry.text, layer, entry)


def parts(entry: Any) -> tuple[str, str]:
    """Return name and value of a ForeignField as they were written; a block with its braces."""
    name, separator, value = entry.text.partition(":")
    if not separator or "{" in name:
        name, _, value = entry.text.partition(" ")
    return name, value.strip()


def take(message: Any, name: str) -> Any | None:
    """Remove the first field ``name`` from a message's ``foreign``; return it, or None."""
    for index, entry in enumerate(message.foreign):
        if parts(entry)[0] == name:
            taken = type(entry)()
            taken.CopyFrom(entry)
            del message.foreign[index]
            return taken
    return None


def name_v1_type(layer: Any) -> None:
    """Set a layer's type from a fork's enum name in the V1 format."""
    entry = take(layer, "type")
    word = parts(entry)[1] if entry is not None else ""
    if word in V1_TYPES:
        layer.type = V1_TYPES[word]


def _owners(message: Any, path: str = "", into_layers: bool = True) -> Iterator[tuple[str, Any]]:
    """Yield the messages that have fields of forks, each with its path from ``message``."""
    if message.foreign:
        yield path, message
    for field, value in message.ListFields():
        kind = field.message_type
        if kind is None or kind.name in _SKIPPED:
            continue
        if not into_layers and kind.name in ("LayerParameter", "V1LayerParameter", "NetParameter"):
            continue
        for item in value if field.is_repeated else [value]:
            yield from _owners(item, f"{path}{field.name}.", into_layers)


def _taken(message: Any) -> list[Any]:
    """Empty a message's ``foreign`` and return what was in it."""
    entries = []
    for entry in message.foreign:
        entries.append(type(entry)())
        entries[-1].CopyFrom(entry)
    del message.foreign[:]
    return entries


def _layers(message: Any) -> list[Any]:
    return list(message.layer) if hasattr(message, "layer") else []


def _rule(owner: Any, name: str, value: str) -> Rule | None:
    kind = owner.DESCRIPTOR.name
    if name in owner.DESCRIPTOR.fields_by_name:
        return rule_for_word(kind, name, "[" if value.startswith("[") else value)
    return rule_for(kind, name)


def _outcome(owner: Any, entry: Any) -> str | None:
    """Return why a field changes nothing, or None if it may."""
    name, value = parts(entry)
    rule = _rule(owner, name, value)
    if rule is None:
        return None
    if rule.harmless is None:
        return f"'{name}' of {rule.fork} is left out: {rule.why}"
    if _plain(value) in rule.harmless:
        return f"'{name}: {value}' of {rule.fork} is left out: it changes nothing with this value"
    return None


def _plain(value: str) -> str:
    """Return a value without quotes, and a number in its shortest form."""
    value = value.strip("\"'")
    try:
        return f"{float(value):g}"
    except ValueError:
        return value


def _line(outcome: str, locations: list[str]) -> str:
    more = f" ({len(locations) - 1} more)" if len(locations) > 1 else ""
    return f"{locations[0]}: {outcome}{more}" if locations[0] else f"{outcome}{more}"


# ---- fields that have an equivalent here


def _move(layer: Any) -> Iterator[tuple[str, str]]:
    """Move a layer's fork fields to their equivalents; yield description and location of each."""
    for entry in _taken(layer):  # a V1 layer of a fork may have any current block
        name, _ = parts(entry)
        if field_of(layer.DESCRIPTOR, name) is not None and name != "type":
            _parse(entry.text, layer, entry)
            if name in layer.DESCRIPTOR.fields_by_name:
                yield f"'{name}' of a V1 layer is the current one", entry.source_line
        else:
            layer.foreign.append(entry)
    yield from _move_datum_dims(layer)
    for field in _DATA:
        if layer.HasField(field):
            yield from _move_transform(layer, getattr(layer, field), field)
    if layer.HasField("convolution_param"):
        yield from _move_hole(layer.convolution_param)
    if layer.HasField("pooling_param"):
        yield from _move_ceil_mode(layer.pooling_param)


def _parse(prototxt: str, message: Any, entry: Any) -> None:
    name, _, line = entry.source_line.rpartition(":")
    text.parse(prototxt.replace("\n", " "), message, name, int(line or 1))


def _move_transform(layer: Any, param: Any, field: str) -> Iterator[tuple[str, str]]:
    if layer.HasField("transform_param"):
        return
    entry = take(param, "transform_param")
    if entry is None:
        return
    _parse(entry.text, layer, entry)
    yield f"'transform_param' inside {field} is the layer's", entry.source_line


def _move_datum_dims(layer: Any) -> Iterator[tuple[str, str]]:
    """The sample shape of a V0 memory_data layer is in memory_data_param now."""
    entry = take(layer, "datum_dims") if layer.type == "MemoryData" else None
    if entry is None:
        return
    _parse(f"memory_data_param {parts(entry)[1]}", layer, entry)
    yield "'datum_dims' of pull request 196 is memory_data_param", entry.source_line


def _move_hole(param: Any) -> Iterator[tuple[str, str]]:
    """``hole`` is dilation; ``hole_h`` and ``hole_w`` are its two numbers."""
    if param.dilation:
        return
    found = {name: entry for name in _HOLES if (entry := take(param, name)) is not None}
    values = {name: parts(entry)[1] for name, entry in found.items()}
    if "hole" in values:
        _parse(f"dilation: {values['hole']}", param, found["hole"])
    elif values:
        height, width = values.get("hole_h", "1"), values.get("hole_w", "1")
        entry = next(iter(found.values()))
        _parse(f"dilation: {height} dilation: {width}", param, entry)
    for entry in found.values():
        yield "'hole' of the DeepLab fork is dilation", entry.source_line
        return


def _move_ceil_mode(param: Any) -> Iterator[tuple[str, str]]:
    entry = None if param.HasField("round_mode") else take(param, "ceil_mode")
    if entry is None:
        return
    mode = _ROUND_MODES.get(parts(entry)[1])
    if mode is None:
        param.foreign.append(entry)
        return
    _parse(f"round_mode: {mode}", param, entry)
    yield f"'{entry.text}' is round_mode: {mode}", entry.source_line


def _move_devices(solver: Any) -> Iterator[tuple[str, str]]:
    """Of a list of devices the first is the one to train on."""
    entry = take(solver, "device_id")
    if entry is None:
        return
    first = parts(entry)[1].strip("[]").partition(",")[0].strip()
    if first:
        _parse(f"device_id: {first}", solver, entry)
    yield f"'{entry.text}': training runs on one device, the first", entry.source_line

"""The article's file format: teacher and student in one file, layers inside the solver.

Users of the article that this project follows write two nets into one file, each begun by its
``name:``, and repeat the student in the solver, with the data layers that the file lacks::

    name: "teacher"                      type: "Adam"
    input: "data"                        net: "network.prototxt"
    input_dim: 1                         layer { name: "mnist" type: "Data" ... }
    ...                                  layer { name: "conv1" ... }
    name: "student"                      ...
    layer { name: "conv1" ... }

This file turns that into ordinary nets; nothing after it has to handle the format.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import NetError, ParseError, did_you_mean
from . import caffe_pb2 as pb
from . import text
from .sources import source_of_layer

STUDENT, TEACHER = "student", "teacher"


@dataclass
class Bundle:
    """The nets of one file.

    Attributes:
        file: the file.
        nets: the nets by name, in the file's order; a file's only net need not have a name.
        notes: what was ignored, for the log.
    """

    file: Path
    nets: Mapping[str, Any]
    notes: list[str] = field(default_factory=list)

    def net(self, *names: str) -> Any:
        """Return the file's only net, or of its several nets the first that has one of the names.

        Raises:
            ParseError: none of several nets has one.
        """
        if len(self.nets) == 1:
            return next(iter(self.nets.values()))
        for name in names:
            if name in self.nets:
                return self.nets[name]
        raise ParseError(
            f"none of the {len(self.nets)} nets in this file is named '{names[0]}'."
            f"{did_you_mean(names[0], self.nets)} Their names: {', '.join(self.nets)}",
            str(self.file),
        )

    def student(self, layers: Sequence[Any]) -> tuple[Any, list[str]]:
        """Return the student with the layers of the solver, and what was done, in words.

        A file's only net, with no layers to add, stays as it is. See ``join``.
        """
        net = self.net(STUDENT)
        return join(net, layers) if layers or len(self.nets) > 1 else (net, [])

    def has_teacher(self, name: str) -> bool:
        """Return whether one of several nets can be the teacher ``name``."""
        return len(self.nets) > 1 and not self.nets.keys().isdisjoint({name, TEACHER})


def read(path: str | Path) -> Bundle:
    """Read a file of one net or several.

    In a file of several the phase of a net's ``state`` is ignored, with a note: the solver
    chooses the phase. Three ``input_dim`` for an input are channels, height and width.

    Raises:
        ParseError: the file is not prototxt, or two of its nets have the same name.
    """
    first_lines: dict[str, int] = {}
    nets: dict[str, Any] = {}
    notes: list[str] = []
    for line, net in (found := text.read_several(path, pb.NetParameter)):
        if net.name in nets:
            raise ParseError(
                f"two nets in this file are named '{net.name}', the first at line "
                f"{first_lines[net.name]}. Give each its own name, '{TEACHER}' or '{STUDENT}'",
                f"{path}:{line}",
            )
        first_lines[net.name], nets[net.name] = line, net
        _complete_dims(net)
        if len(found) > 1 and net.state.HasField("phase"):
            net.state.ClearField("phase")
            notes.append(
                f"{path}:{line}: warning: the phase in the state of net '{net.name}' is ignored; "
                "training and testing choose the phase"
            )
    return Bundle(Path(path), nets, notes)


def _complete_dims(net: Any) -> None:
    """Give each input without a batch size, three ``input_dim`` long, a batch of 1."""
    dims = list(net.input_dim)
    if net.input and len(dims) == 3 * len(net.input):
        net.input_dim[:] = [d for i in range(0, len(dims), 3) for d in (1, *dims[i : i + 3])]


def join(student: Any, layers: Iterable[Any]) -> tuple[Any, list[str]]:
    """Return the student with the layers of a solver, and what was done, in words.

    A layer that the student has already, by name and include rules, must be equal and is added
    once. Of the others those without bottoms, as data layers, come first; each other one comes
    before the next of the solver's layers that the student has too, or else at the end. An
    ``input`` that a layer without bottoms makes too is dropped.

    Raises:
        NetError: a layer differs from the student's of the same name; it names both locations.
    """
    joined = pb.NetParameter()
    joined.CopyFrom(student)
    first: list[Any] = []
    waiting: list[Any] = []
    before: dict[int, list[Any]] = {}  # new layers by the index of the layer they come before
    own = {_identity(layer): index for index, layer in reversed([*enumerate(student.layer)])}
    new: dict[tuple[Any, ...], Any] = {}
    for layer in layers:
        identity = _identity(layer)
        known = student.layer[own[identity]] if identity in own else new.get(identity)
        if known is not None:
            _check_equal(layer, known)
        if identity in own:
            before.setdefault(own[identity], []).extend(waiting)
            waiting = []
        elif known is None:
            new[identity] = layer
            (first if source_of_layer(layer) else waiting).append(layer)
    body = [x for i, layer in enumerate(student.layer) for x in (*before.get(i, ()), layer)]
    del joined.layer[:]
    joined.layer.extend([*first, *body, *waiting])
    notes = [_joined_note(student, new.values())] if new else []
    return joined, notes + _drop_fed_inputs(joined)


def _identity(layer: Any) -> tuple[Any, ...]:
    return layer.name, *(rule.SerializeToString(deterministic=True) for rule in layer.include)


def _check_equal(layer: Any, known: Any) -> None:
    plain = [pb.LayerParameter(), pb.LayerParameter()]
    for copy, original in zip(plain, (layer, known), strict=True):
        copy.CopyFrom(original)
        text.clear_source_lines(copy)
    if plain[0] == plain[1]:
        return
    fields = [f.name for f in pb.LayerParameter.DESCRIPTOR.fields]
    here, there = ({f.name: v for f, v in copy.ListFields()} for copy in plain)
    differing = [name for name in fields if here.get(name) != there.get(name)]
    raise NetError(
        f"layer '{layer.name}' is written at {known.source_line} too, and differs there in "
        f"{', '.join(differing)}. Make both equal, or drop one",
        layer.source_line or None,
    )


def _joined_note(student: Any, new: Iterable[Any]) -> str:
    names = dict.fromkeys(layer.name for layer in new)
    return f"net '{student.name}': layers of the solver are added: {', '.join(names)}"


def _drop_fed_inputs(net: Any) -> list[str]:
    """Drop each ``input`` that a layer without bottoms makes too; return it in words."""
    makers = {top: layer.name for layer in net.layer if source_of_layer(layer) for top in layer.top}
    fed = [i for i, name in enumerate(net.input) if name in makers]
    notes = [
        f"net '{net.name}': input '{net.input[i]}' is dropped: layer '{makers[net.input[i]]}' "
        "makes it"
        for i in fed
    ]
    for index in reversed(fed):
        del net.input[index]
        del net.input_shape[index : index + 1]
        del net.input_dim[4 * index : 4 * index + 4]
    return notes


def name_soft_targets(parts: Sequence[Any], teacher: str) -> tuple[list[Any], list[str]]:
    """Return student and distiller with the soft targets' full names, and the changes in words.

    A bottom ``X_s`` that no layer of theirs makes is the teacher's blob X, ``<teacher>/X``.
    """
    made = {top for part in parts for layer in part.layer for top in layer.top}
    notes: list[str] = []
    renamed = []
    for part in parts:
        copy = pb.NetParameter()
        copy.CopyFrom(part)
        for layer in copy.layer:
            for index, bottom in enumerate(layer.bottom):
                if bottom.endswith("_s") and bottom not in made:
                    target = layer.bottom[index] = f"{teacher}/{bottom.removesuffix('_s')}"
                    notes.append(f"layer '{layer.name}': its bottom '{bottom}' is '{target}'")
        renamed.append(copy)
    return renamed, notes

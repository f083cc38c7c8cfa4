"""What a layer without bottoms brings to a net: the one place that says which types bring data."""

from __future__ import annotations

from enum import Enum
from typing import Any


class Source(Enum):
    """What the tops of a layer without bottoms are."""

    SAMPLES = "records of a database, list or file, or of a user's own type"
    INPUT = "what the program sets"
    VALUES = "values that the layer makes itself"
    PARAMETER = "what is learnt"
    RATE = "the solver's learning rate"


# What teaches, tests and predicts is computed from these.
DATA = (Source.SAMPLES, Source.INPUT, Source.VALUES)

_OF_TYPES = {
    "Input": Source.INPUT,
    "DummyData": Source.VALUES,
    "Parameter": Source.PARAMETER,
    "LearningRate": Source.RATE,
}


def source_of_type(name: str) -> Source:
    """Return what layers of a type bring where they have no bottoms."""
    return _OF_TYPES.get(name, Source.SAMPLES)


def declare(name: str, source: Source) -> None:
    """Enter what a layer type of a user's own brings, as its class says."""
    _OF_TYPES[name] = source


def source_of_layer(layer: Any) -> Source | None:
    """Return what a LayerParameter brings; None if it has bottoms."""
    return None if any(layer.bottom) else source_of_type(layer.type)

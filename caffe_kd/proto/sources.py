"""What a layer without bottoms provides: this module alone determines which types read data."""

from __future__ import annotations

from enum import Enum
from typing import Any


class Source(Enum):
    """What the tops of a layer without bottoms are."""

    SAMPLES = "samples of a database, list or file, or of a user's own type"
    INPUT = "what the program sets"
    VALUES = "values that the layer generates"
    PARAMETER = "what is learned"
    RATE = "the solver's learning rate"


# The outputs of a net are computed from these.
DATA = (Source.SAMPLES, Source.INPUT, Source.VALUES)

_OF_TYPES = {
    "Input": Source.INPUT,
    "DummyData": Source.VALUES,
    "Parameter": Source.PARAMETER,
    "LearningRate": Source.RATE,
}


def source_of_type(name: str) -> Source:
    """Return what layers of a type provide where they have no bottoms."""
    return _OF_TYPES.get(name, Source.SAMPLES)


def declare(name: str, source: Source) -> None:
    """Register what a user's own layer type provides, as its class says."""
    _OF_TYPES[name] = source


def source_of_layer(layer: Any) -> Source | None:
    """Return what a LayerParameter provides; None if it has bottoms."""
    return None if any(layer.bottom) else source_of_type(layer.type)

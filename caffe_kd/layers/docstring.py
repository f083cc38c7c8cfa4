"""The parts of a layer type's docstring, and the type's folder, for documentation.

A docstring ends with a sample of the layer in prototxt. A comment after a bottom or a top gives
the blob's shape::

    Sample::

        layer {
          name: "pool1"
          type: "Pooling"
          bottom: "conv1"  # (2, 4, 8, 8)
          top: "pool1"  # (2, 4, 4, 4)
          pooling_param { kernel_size: 2 stride: 2 }
        }
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import Layer

_PACKAGE = __name__.rpartition(".")[0]
_SAMPLE = "\nSample::\n"
# In the order of Caffe's documentation, then those that it does not have.
_FOLDERS = (
    "data",
    "vision",
    "recurrent",
    "common",
    "normalization",
    "activation",
    "utility",
    "loss",
    "distillation",
    "detection",
)


@dataclass(frozen=True)
class Docstring:
    """The parts of a layer type's docstring.

    Attributes:
        summary: its first sentence.
        text: the rest up to the sample: formula, bottoms, tops, Raises, Source.
        sample: a layer of the type in prototxt; empty if the docstring has none.
    """

    summary: str
    text: str
    sample: str


def docstring_of(kind: type[Layer]) -> Docstring:
    """Return the parts of a type's own docstring; those of a base class are not the type's."""
    whole = inspect.cleandoc(kind.__dict__.get("__doc__") or "")
    prose, _, sample = f"{whole}\n".partition(_SAMPLE)
    summary, _, text = prose.partition("\n\n")
    return Docstring(summary.strip(), text.strip(), textwrap.dedent(sample).strip())


def by_folder(kinds: Iterable[type[Layer]]) -> dict[str, list[type[Layer]]]:
    """Return types by the first line of their folder's docstring, in the folders' order.

    Types of other packages come last, by the name of their module.
    """
    found: dict[str, list[type[Layer]]] = {}
    for kind in kinds:
        found.setdefault(_folder(kind), []).append(kind)
    ours = [name for name in _FOLDERS if name in found]
    titles = {name: _title(name) for name in ours}
    return {titles.get(name, name): found[name] for name in [*ours, *sorted({*found} - {*ours})]}


def _folder(kind: type[Layer]) -> str:
    inside = kind.__module__.removeprefix(f"{_PACKAGE}.")
    return kind.__module__ if inside == kind.__module__ else inside.partition(".")[0]


def _title(folder: str) -> str:
    docstring = import_module(f"{_PACKAGE}.{folder}").__doc__ or folder
    return docstring.strip().splitlines()[0].rstrip(".")

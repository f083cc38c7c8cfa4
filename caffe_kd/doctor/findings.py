"""What a check is and what it finds.

A check is a generator in a module of its theme::

    @net_check("numbers", why="what it does to the user's results", do="what to write instead")
    def mirror_in_test(view: View) -> Occurrences:
        for node in view.nodes:
            if ...:
                yield Occurrence("warning", node.location, "what is found there")

``net_check`` is run on each net in each phase, ``target_check`` once on the whole file. Importing
the module registers its checks; the first line of a check's docstring says what it looks for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..analysis.reading import Target
    from ..analysis.view import View

SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Occurrence:
    """One location where a check found something.

    Attributes:
        severity: error (it cannot work), warning (it works differently than expected) or note.
        where: ``file:line``.
        what: the fact, with the layer and the values.
    """

    severity: str
    where: str
    what: str


Occurrences = Iterator[Occurrence]


@dataclass(frozen=True)
class Check:
    """A check: its name, theme, why its findings matter, what to do, and the function."""

    name: str
    theme: str
    why: str
    do: str
    run: Callable[[Any], Occurrences]


@dataclass
class Finding:
    """An occurrence with its check, and the phases it was found in (empty: outside any net)."""

    check: Check
    occurrence: Occurrence
    phases: list[str] = field(default_factory=list)


NET_CHECKS: list[Check] = []
TARGET_CHECKS: list[Check] = []


def net_check(
    theme: str, why: str, do: str
) -> Callable[[Callable[[View], Occurrences]], Callable[[View], Occurrences]]:
    """Register a check of one net in one phase."""
    return _registrar(NET_CHECKS, theme, why, do)


def target_check(
    theme: str, why: str, do: str
) -> Callable[[Callable[[Target], Occurrences]], Callable[[Target], Occurrences]]:
    """Register a check of the whole file."""
    return _registrar(TARGET_CHECKS, theme, why, do)


def _registrar(checks: list[Check], theme: str, why: str, do: str) -> Callable[[Any], Any]:
    def add(run: Callable[[Any], Occurrences]) -> Callable[[Any], Occurrences]:
        checks.append(Check(run.__name__, theme, why, do, run))
        return run

    return add

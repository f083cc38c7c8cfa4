"""What a check is and what it finds.

A check is a generator in a module of its theme::

    @net_check("numbers", why="what it does to the user's figures", do="what to write instead")
    def mirror_in_test(view: View) -> Hits:
        for node in view.nodes:
            if ...:
                yield Hit("warning", node.place, "what is written there")

``net_check`` is run on each net in each phase, ``case_check`` once on the whole file. Importing the
module registers its checks; the first line of a check's docstring says what it looks for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..analysis.reading import Case
    from ..analysis.view import View

SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Hit:
    """One place where a check found something.

    Attributes:
        severity: error (it cannot work), warning (it works otherwise than expected) or note.
        where: ``file:line``.
        what: the fact, with the layer and the values.
    """

    severity: str
    where: str
    what: str


Hits = Iterator[Hit]


@dataclass(frozen=True)
class Check:
    """A check: its name, theme, why its findings matter, what to do, and the function."""

    name: str
    theme: str
    why: str
    do: str
    run: Callable[[Any], Hits]


@dataclass
class Finding:
    """A hit with its check, and the phases it was found in (none: outside any net)."""

    check: Check
    hit: Hit
    phases: list[str] = field(default_factory=list)


NET_CHECKS: list[Check] = []
CASE_CHECKS: list[Check] = []


def net_check(
    theme: str, why: str, do: str
) -> Callable[[Callable[[View], Hits]], Callable[[View], Hits]]:
    """Register a check of one net in one phase."""
    return _registrar(NET_CHECKS, theme, why, do)


def case_check(
    theme: str, why: str, do: str
) -> Callable[[Callable[[Case], Hits]], Callable[[Case], Hits]]:
    """Register a check of the whole file."""
    return _registrar(CASE_CHECKS, theme, why, do)


def _registrar(checks: list[Check], theme: str, why: str, do: str) -> Callable[[Any], Any]:
    def add(run: Callable[[Any], Hits]) -> Callable[[Any], Hits]:
        checks.append(Check(run.__name__, theme, why, do, run))
        return run

    return add

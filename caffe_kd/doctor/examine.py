"""Runs the checks on a file and gathers what they found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..analysis.cost import Cost, cost_of
from ..analysis.reading import Case, Wishes, read_case
from ..core.errors import CaffeKDError
from . import (  # noqa: F401
    averages,
    distilling,
    exporting,
    fit,
    in_place,
    learning,
    numerics,
    objective,
    solving,
    structure,
)
from .findings import CASE_CHECKS, NET_CHECKS, SEVERITIES, Check, Finding, Hit

_UNREADABLE = Check(
    "cannot_be_read",
    "structure",
    "Nothing can be said of a file that cannot be read.",
    "Correct the place that the message names, or give another file.",
    lambda _: iter(()),
)


@dataclass
class Report:
    """What was found in a file.

    Attributes:
        file: the file.
        kind: net, solver, or unreadable.
        findings: errors first; of equal severity in the order of the checks.
        costs: what the nets cost, by phase.
    """

    file: Path
    kind: str
    findings: list[Finding] = field(default_factory=list)
    costs: dict[str, Cost] = field(default_factory=dict)

    def count(self, severity: str) -> int:
        """Return how many findings are of a severity."""
        return sum(finding.hit.severity == severity for finding in self.findings)


def examine(path: str | Path, wishes: Wishes | None = None) -> Report:
    """Examine a net or solver, of any year, with weights or without.

    Args:
        path: the prototxt.
        wishes: weights, the shapes of absent data, level and stages.
    """
    try:
        case = read_case(path, wishes)
    except CaffeKDError as error:
        hit = Hit("error", error.where or str(path), error.message)
        return Report(Path(path), "unreadable", [Finding(_UNREADABLE, hit)])
    kind = "net" if case.solver is None else "solver"
    report = Report(case.file, kind, findings_of(case))
    for view in case.views:
        if view.survey.net is not None and view.survey.net.steps:
            report.costs.setdefault(view.phase_name, cost_of(view.survey.net, view.learns))
    return report


def findings_of(case: Case) -> list[Finding]:
    """Run all checks on a case; see ``Report`` for the order."""
    found: dict[tuple[str, Hit], Finding] = {}

    def add(check: Check, hits: Iterable[Hit], phase: str | None) -> None:
        for hit in hits:
            finding = found.setdefault((check.name, hit), Finding(check, hit))
            if phase is not None and phase not in finding.phases:
                finding.phases.append(phase)

    subjects: list[tuple[list[Check], Any, str | None]] = [(CASE_CHECKS, case, None)]
    subjects += [(NET_CHECKS, view, view.phase_name) for view in case.views]
    for checks, subject, phase in subjects:
        for check in checks:
            add(check, check.run(subject), phase)
    order = {check.name: i for i, check in enumerate([*NET_CHECKS, *CASE_CHECKS])}
    return sorted(
        found.values(),
        key=lambda f: (SEVERITIES.index(f.hit.severity), order[f.check.name]),
    )

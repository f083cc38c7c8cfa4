"""Runs the checks on a file and collects their findings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..analysis.cost import Cost, cost_of
from ..analysis.reading import ReadOptions, Target, read_target
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
    quantizing,
    solving,
    structure,
)
from .findings import NET_CHECKS, SEVERITIES, TARGET_CHECKS, Check, Finding, Occurrence

_UNREADABLE = Check(
    "cannot_be_read",
    "structure",
    "A file that cannot be read cannot be checked.",
    "Correct the line that the message names, or give another file.",
    lambda _: iter(()),
)


@dataclass
class Report:
    """The findings in a file.

    Attributes:
        file: the file.
        kind: net, solver, or unreadable.
        findings: errors first; within a severity in the order of the checks.
        costs: the nets' costs, by phase.
    """

    file: Path
    kind: str
    findings: list[Finding] = field(default_factory=list)
    costs: dict[str, Cost] = field(default_factory=dict)

    def count(self, severity: str) -> int:
        """Return how many findings are of a severity."""
        return sum(finding.occurrence.severity == severity for finding in self.findings)


def examine(path: str | Path, options: ReadOptions | None = None) -> Report:
    """Examine a net or solver, of any Caffe version, with or without weights.

    Args:
        path: the prototxt.
        options: weights, the shapes of absent data, level and stages.
    """
    try:
        target = read_target(path, options)
    except CaffeKDError as error:
        occurrence = Occurrence("error", error.where or str(path), error.message)
        return Report(Path(path), "unreadable", [Finding(_UNREADABLE, occurrence)])
    kind = "net" if target.solver is None else "solver"
    report = Report(target.file, kind, findings_of(target))
    for view in target.views:
        if view.inference.net is not None and view.inference.net.nodes:
            report.costs.setdefault(view.phase_name, cost_of(view.inference.net, view.learns))
    return report


def findings_of(target: Target) -> list[Finding]:
    """Run all checks on a target; see ``Report`` for the order."""
    found: dict[tuple[str, Occurrence], Finding] = {}

    def add(check: Check, occurrences: Iterable[Occurrence], phase: str | None) -> None:
        for occurrence in occurrences:
            finding = found.setdefault((check.name, occurrence), Finding(check, occurrence))
            if phase is not None and phase not in finding.phases:
                finding.phases.append(phase)

    groups: list[tuple[list[Check], Any, str | None]] = [(TARGET_CHECKS, target, None)]
    groups += [(NET_CHECKS, view, view.phase_name) for view in target.views]
    for checks, checked, phase in groups:
        for check in checks:
            add(check, check.run(checked), phase)
    order = {check.name: i for i, check in enumerate([*NET_CHECKS, *TARGET_CHECKS])}
    return sorted(
        found.values(),
        key=lambda f: (SEVERITIES.index(f.occurrence.severity), order[f.check.name]),
    )

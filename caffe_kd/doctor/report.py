"""Prints the doctor's findings, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from ..analysis.cost import Cost
from ..core.tables import text_table
from ..layers import Shape
from .examine import Report
from .findings import SEVERITIES, Finding

_MOST_SHOWN = 10  # occurrences of one check
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def as_text(report: Report) -> Iterator[str]:
    """Yield the report's lines: the findings, the net's cost, and the totals."""
    yield f"{report.file}: {report.kind}"
    yield from _groups(report.findings)
    if report.costs:
        phase = "TEST" if "TEST" in report.costs else next(iter(report.costs))
        yield ""
        yield from _table(report.costs[phase])
        phases: dict[str, list[str]] = {}
        for name, cost in report.costs.items():
            phases.setdefault(_totals(cost), []).append(name)
        for totals, names in phases.items():
            yield f"{' and '.join(names)}: {totals}"
    yield from _counts(report.findings)


def cost_as_text(cost: Cost) -> Iterator[str]:
    """Yield the lines of a net's table of layers, and its totals."""
    yield from _table(cost)
    yield _totals(cost)


def findings_as_text(findings: list[Finding]) -> Iterator[str]:
    """Yield the lines of findings, and how many of each severity there are."""
    yield from _groups(findings)
    yield from _counts(findings)


def _groups(findings: list[Finding]) -> Iterator[str]:
    for (severity, _), group in groupby(
        findings, key=lambda f: (f.occurrence.severity, f.check.name)
    ):
        yield from _group(severity, list(group))


def _counts(findings: list[Finding]) -> Iterator[str]:
    yield ""
    severities = [finding.occurrence.severity for finding in findings]
    yield ", ".join(_counted(severities.count(s), s) for s in SEVERITIES)


def _group(severity: str, findings: list[Finding]) -> Iterator[str]:
    """Yield the findings of one check at one severity; why and what to do are printed once."""
    check = findings[0].check
    yield ""
    yield f"{severity}: {check.name} ({check.theme})"
    for finding in findings[:_MOST_SHOWN]:
        phases = f" [{', '.join(finding.phases)}]" if len(finding.phases) == 1 else ""
        where = f"{finding.occurrence.where}: " if finding.occurrence.where else ""
        yield f"  {where}{finding.occurrence.what}{phases}"
    if len(findings) > _MOST_SHOWN:
        yield f"  and {len(findings) - _MOST_SHOWN} more (doctor -json lists all)"
    yield f"  Why: {check.why}"
    yield f"  Do: {check.do}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _table(cost: Cost) -> Iterator[str]:
    head = ("layer", "type", "top", "parameters", "multiply-adds")
    rows = [
        (row.name, row.type, _shapes(row.tops), _number(row.parameters), _number(row.multiply_adds))
        for row in cost.rows
    ]
    yield from text_table([head, *rows], right=(3, 4))


def _totals(cost: Cost) -> str:
    parts = [
        f"{cost.parameters:,} parameters"
        + (f" ({cost.learned:,} trained)" if cost.learned is not None else ""),
        f"{short(cost.multiply_adds).rstrip()} multiply-adds a sample",
        f"blobs {short(cost.blob_bytes)}B for a batch of {cost.batch}",
    ]
    if cost.receptive is not None:
        blob, rows, columns = cost.receptive
        parts.append(f"a value of '{blob}' sees {rows} x {columns}")
    if len(cost.rows) < cost.layers:
        parts.append(f"of {len(cost.rows)} of {cost.layers} layers: the others cannot be built")
    return ", ".join(parts)


def _shapes(shapes: list[Shape]) -> str:
    return " ".join("x".join(map(str, shape)) or "1" for shape in shapes)


def _number(value: int) -> str:
    return f"{value:,}" if value else "-"


def short(value: int) -> str:
    """Return a count with three digits and a unit, to go before a word: ``1.43 G``, ``17 ``."""
    for size, unit in _UNITS:
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value} "


def as_dict(report: Report) -> dict[str, Any]:
    """Return the report as a JSON object."""
    return {
        "file": str(report.file),
        "kind": report.kind,
        "counts": {severity: report.count(severity) for severity in SEVERITIES},
        "findings": [
            {
                "severity": finding.occurrence.severity,
                "check": finding.check.name,
                "theme": finding.check.theme,
                "where": finding.occurrence.where,
                "what": finding.occurrence.what,
                "why": finding.check.why,
                "do": finding.check.do,
                "phases": finding.phases,
            }
            for finding in report.findings
        ],
        "costs": {phase: _cost_as_dict(cost) for phase, cost in report.costs.items()},
    }


def _cost_as_dict(cost: Cost) -> dict[str, Any]:
    return {
        "batch": cost.batch,
        "parameters": cost.parameters,
        "learned": cost.learned,
        "multiply_adds": cost.multiply_adds,
        "blob_bytes": cost.blob_bytes,
        "receptive_field": cost.receptive,
        "layers": [
            {
                "name": row.name,
                "type": row.type,
                "tops": row.tops,
                "parameters": row.parameters,
                "multiply_adds": row.multiply_adds,
            }
            for row in cost.rows
        ],
    }

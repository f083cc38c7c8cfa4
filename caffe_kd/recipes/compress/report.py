"""What a compression came to: a table, a sentence, and a page that needs no network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from ...core.tables import text_table
from ..runner import as_time
from .compress import Compressed, Row
from .measure import Measured

_HEAD = ("net", "parameters", "MACs", "bytes", "errors", "accuracy", "µs", "time")
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62em; margin: 2em auto;
  padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
table { border-collapse: collapse; } th, td { padding: .25em .7em; text-align: right; }
th { border-bottom: 2px solid #888; } td { border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
td.bar { background: linear-gradient(#cfe3f7, #cfe3f7) no-repeat left / var(--share) 100%; }
tr.last td { font-weight: bold; } code { background: #f3f3f3; padding: 0 .2em; }
svg text { font: 12px system-ui, sans-serif; }
"""
_WIDTH, _HEIGHT, _EDGE = 640, 260, 46


def table(result: Compressed) -> str:
    """Return the nets as lines of text."""
    return "\n".join(text_table([_HEAD, *map(_cells, result.rows)], right=range(1, len(_HEAD))))


def _cells(row: Row) -> tuple[str, ...]:
    m = row.measured
    return (
        row.title,
        f"{m.parameters:,}",
        f"{m.macs:,}",
        f"{m.bytes:,}",
        "-" if m.errors is None else f"{m.errors:,} of {m.tested:,}",
        "-" if m.accuracy is None else f"{m.accuracy:.2f} %",
        f"{m.microseconds:.1f}",
        as_time(row.seconds),
    )


def verdict(result: Compressed) -> str:
    """Return what the last net is beside the first, in a sentence."""
    before, after = result.rows[result.start].measured, result.rows[-1].measured
    errors = ""
    if before.errors is not None and after.errors is not None:
        errors = f", and it makes {after.errors:,} errors where that makes {before.errors:,}"
    return (
        f"{result.rows[-1].title}: 1/{before.bytes / after.bytes:.1f} of the bytes and "
        f"1/{before.microseconds / after.microseconds:.1f} of the time of the net that it was made "
        f"of{errors}."
    )


def page(result: Compressed, command: str) -> str:
    """Return the report as HTML, with everything in it.

    Args:
        result: what came out.
        command: how it was made.
    """
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"><title>caffe_kd compress</title>',
        f"<style>{_STYLE}</style></head><body>",
        "<h1>A net compressed</h1>",
        f"<p>{escape(verdict(result))}</p>",
        f"<p><code>{escape(command)}</code></p>",
        "<h2>The nets on the way</h2>",
        _html_table(result.rows),
        "<p>BatchNorm and Scale are folded in all figures. Bytes: of the ONNX model. µs: one "
        "sample on one thread of ONNX Runtime, median.</p>",
        _chart(result.rows),
        *_channels(result),
        *_list("Notes", [escape(note) for note in result.notes]),
        *_list(
            "Files",
            [f"<code>{escape(n)}</code>: {escape(what)}" for n, what in result.files.items()],
        ),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


_FIGURES: dict[int, Callable[[Measured], float]] = {
    1: lambda m: m.parameters,
    2: lambda m: m.macs,
    3: lambda m: m.bytes,
    4: lambda m: m.errors or 0,
    6: lambda m: m.microseconds,
}


def _html_table(rows: Sequence[Row]) -> str:
    """Return the table, with a bar behind each figure: its share of the column's greatest."""
    most = {i: max(figure(row.measured) for row in rows) or 1 for i, figure in _FIGURES.items()}
    lines = ["<table><tr>", *(f"<th>{name}</th>" for name in _HEAD), "</tr>"]
    for row in rows:
        lines.append('<tr class="last">' if row is rows[-1] else "<tr>")
        for index, cell in enumerate(_cells(row)):
            attributes = ""
            if index in _FIGURES:
                share = 100 * _FIGURES[index](row.measured) / most[index]
                attributes = f' class="bar" style="--share: {share:.1f}%"'
            lines.append(f"<td{attributes}>{escape(cell)}</td>")
        lines.append("</tr>")
    return "".join([*lines, "</table>"])


def _chart(rows: Sequence[Row]) -> str:
    """Return the accuracy of each net, from the first to the last, as SVG."""
    points = [(row, row.measured.accuracy) for row in rows if row.measured.accuracy is not None]
    if len(points) < 2:
        return ""
    values = [accuracy for _, accuracy in points]
    low, high = min(values), max(values)
    room = (high - low) or 1.0
    step = (_WIDTH - 2 * _EDGE) / (len(points) - 1)

    def at(index: int, accuracy: float) -> tuple[float, float]:
        share = (accuracy - low) / room
        return _EDGE + index * step, _HEIGHT - _EDGE - share * (_HEIGHT - 2 * _EDGE)

    places = [at(index, value) for index, (_, value) in enumerate(points)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [
        "<h2>Accuracy on the way</h2>",
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="accuracy of each net">',
        f'<polyline points="{line}" fill="none" stroke="#2b6cb0" stroke-width="2"/>',
    ]
    for number, ((x, y), (row, value)) in enumerate(zip(places, points, strict=True), 1):
        beside = places[max(0, number - 2) : number + 1]
        dips = y >= max(other for _, other in beside) and y > min(other for _, other in beside)
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#2b6cb0">'
            f"<title>{escape(row.title)}</title></circle>"
            f'<text x="{x:.1f}" y="{y + (18 if dips else -10):.1f}" text-anchor="middle">'
            f"{value:.2f} %</text>"
            f'<text x="{x:.1f}" y="{_HEIGHT - 14}" text-anchor="middle">{number}</text>'
        )
    names = "; ".join(f"{n} {escape(row.title)}" for n, (row, _) in enumerate(points, 1))
    return "".join([*parts, f"</svg><p>{names}</p>"])


def _channels(result: Compressed) -> list[str]:
    if not result.layers:
        return []
    lines = ["<h2>Channels</h2><table><tr><th>layer</th><th>kept</th><th>of</th></tr>"]
    for name, kept, whole in result.layers:
        share = f'class="bar" style="--share: {100 * kept / whole:.1f}%"'
        lines.append(f"<tr><td>{escape(name)}</td><td {share}>{kept}</td><td>{whole}</td></tr>")
    return ["".join([*lines, "</table>"])]


def _list(title: str, items: Sequence[str]) -> list[str]:
    if not items:
        return []
    return [f"<h2>{title}</h2><ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"]

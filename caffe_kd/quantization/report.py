"""What a quantisation found, as lines of text."""

from __future__ import annotations

from ..core.tables import text_table
from .evaluate import Evaluation, Latency
from .options import Method
from .results import BlobRange, Quantized

_SLOWER = 1.05  # times as long; less is noise


def range_table(rows: list[BlobRange]) -> list[str]:
    """Return a line for each blob, under a head; ``-ranges`` reads them."""
    head = ("blob", "layer", "min", "max", "threshold", "scale", "zero_point", "clipped")
    cells = [
        (
            *(row.blob, row.layer, f"{row.low:.6g}", f"{row.high:.6g}"),
            *(f"{row.threshold:.9g}", f"{row.scale:.9g}", str(row.zero_point)),
            f"{100 * row.clipped:.3g}%",
        )
        for row in rows
    ]
    return text_table([head, *cells], right=range(2, len(head)))


def trial_table(trials: dict[Method, Evaluation], chosen: Method) -> list[str]:
    """Return how each method did on held-out samples."""
    cells = [
        (
            *(method.value, f"{trial.rms:.4g}", _differing(trial)),
            str(trial.errors[1]) if trial.labels else "-",
            "chosen" if method is chosen else "",
        )
        for method, trial in trials.items()
    ]
    head = ("method", "rms of the difference", "differing", "errors", "")
    return text_table([head, *cells], right=(1, 2, 3))


def comparison_table(result: Quantized) -> list[str]:
    """Return float against int8: size, time, errors, outputs that differ."""
    before, after = result.sizes
    rows = [
        ("", "float", "int8", ""),
        ("bytes", f"{before:,}", f"{after:,}", f"{100 * after / before:.1f}%"),
    ]
    rows += [
        (
            f"µs at batch {time.batch}",
            *(f"{time.float_us:,.1f}", f"{time.int8_us:,.1f}"),
            f"{time.factor:.2f} times, median of {time.runs}",
        )
        for time in result.latencies
    ]
    for found in result.evaluations:
        differ = f"{_differing(found)} differ, " if found.differing is not None else ""
        label = f"errors of {found.labels:,}" if found.labels else f"{found.samples:,} samples"
        errors = [f"{n:,}" for n in found.errors] if found.labels else ["", ""]
        note = f"{differ}rms of the difference {found.rms:.3g}"
        rows.append((f"{label} ({found.name})", errors[0], errors[1], note))
    return text_table(rows, right=(1, 2))


def slower_sentence(latencies: list[Latency]) -> str:
    """Return a sentence where int8 is slower, else an empty one."""
    slow = [time for time in latencies if time.factor > _SLOWER]
    if not slow:
        return ""
    places = " and ".join(
        f"{time.factor:.1f} times slower at batch {time.batch} "
        f"({time.int8_us:,.1f} µs against {time.float_us:,.1f})"
        for time in slow
    )
    return (
        f"int8 is {places} here: its layers are so small, or so many operators stay float between "
        "them, that turning values into int8 and back costs more than it saves"
    )


def _differing(found: Evaluation) -> str:
    return "-" if found.differing is None else f"{found.differing:,}"

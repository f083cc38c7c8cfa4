"""The search space: the settings and their ranges."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...core.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from optuna import Trial

SETTINGS = {
    "temperature": "of every DistillingLoss",
    "alpha": "of every DistillingLoss: the teacher's share, 0 to 1",
    "loss_weight": "the first in the distiller; the others keep their ratio to it",
    "base_lr": "the learning rate",
    "batch_size": "samples in a batch, the solver's times a power of 2; iterations change with it",
    "weight_decay": "the decay of the weights",
}
# Ranges that do not depend on the solver's values; a decay of 1e-6 is almost none.
_FIXED = {"temperature": (1.0, 20.0), "alpha": (0.0, 1.0), "weight_decay": (1e-6, 1e-2)}
_TIMES = {
    "loss_weight": 10.0,
    "base_lr": 10.0,
    "batch_size": 2.0,
}  # the others: from the solver's value / this to the value * this

Values = dict[str, float]


@dataclass(frozen=True)
class Range:
    """The values from which a setting is drawn.

    Attributes:
        low: the smallest.
        high: the largest.
        choices: all values if they are few, else empty.
    """

    low: float
    high: float
    choices: tuple[int, ...] = ()

    def nearest(self, value: float) -> float:
        """Return the value of the range that is closest to another."""
        if self.choices:
            return min(self.choices, key=lambda choice: abs(choice - value))
        return min(max(value, self.low), self.high)


class Space:
    """The settings that are searched.

    Args:
        own: the settings that the solver has, by name.
        asked: the range of each that is searched, None for the default; empty for all of ``own``.

    Attributes:
        ranges: the ranges that are searched, by name.
        own: the solver's own values of these, each clipped to its range.

    Raises:
        UsageError: a setting is unknown or the solver lacks it, or a range is impossible.
    """

    def __init__(
        self, own: Mapping[str, float], asked: Mapping[str, tuple[float, float] | None]
    ) -> None:
        for name in asked:
            if name not in own:
                raise UsageError(f"{name}: the solver has no such setting to search")
        names = [name for name in SETTINGS if name in (asked or own)]
        self.ranges = {name: _range(name, own[name], asked.get(name)) for name in names}
        self.own: Values = {name: r.nearest(own[name]) for name, r in self.ranges.items()}

    def draw(self, trial: Trial) -> Values:
        """Return the settings that Optuna suggests."""
        values: Values = {}
        for name, r in self.ranges.items():
            if r.choices:
                values[name] = trial.suggest_categorical(name, r.choices)
            else:
                values[name] = trial.suggest_float(name, r.low, r.high, log=is_log(name))
        return values

    def about(self) -> dict[str, Any]:
        """Return the ranges, for comparison with those of an earlier search."""
        return {name: list(r.choices) or [r.low, r.high] for name, r in self.ranges.items()}


def is_log(name: str) -> bool:
    """Return whether a setting is searched on a logarithmic scale."""
    return name != "alpha"


def parse(text: str) -> dict[str, tuple[float, float] | None]:
    """Return the ranges in ``NAME=LOW:HIGH,NAME,...``.

    Raises:
        UsageError: a name is unknown, or a range is invalid.
    """
    asked: dict[str, tuple[float, float] | None] = {}
    for part in (p.strip() for p in text.split(",") if p.strip()):
        name, is_given, span = part.partition("=")
        if name not in SETTINGS:
            raise UsageError(
                f"-search: there is no setting '{name}'.{did_you_mean(name, SETTINGS)} "
                f"Settings: {', '.join(SETTINGS)}"
            )
        asked[name] = _parse_span(part, span) if is_given else None
    return asked


def _parse_span(part: str, span: str) -> tuple[float, float]:
    try:
        low, high = (float(x) for x in span.split(":"))
    except ValueError:
        raise UsageError(
            f"-search takes NAME=LOW:HIGH, as temperature=1:20. Received: {part}"
        ) from None
    return low, high


def _range(name: str, own: float, asked: tuple[float, float] | None) -> Range:
    if asked is not None:
        low, high = asked
    elif name in _FIXED:
        low, high = _FIXED[name]
    else:
        low, high = own / _TIMES[name], own * _TIMES[name]
    least = 0.0 if name == "alpha" else math.ulp(0.0)
    if not (least <= low < high < math.inf and (name != "alpha" or high <= 1)):
        raise UsageError(
            f"-search: a range of {name} goes from a number "
            f"{'of at least 0 to one of at most 1' if name == 'alpha' else 'above 0 to a greater'}."
            f" Received: {low:g}:{high:g}"
        )
    if name != "batch_size":
        return Range(low, high)
    batch = int(own)
    sizes = [batch << k for k in range(20)] + [batch >> k for k in range(1, 20)]
    choices = tuple(sorted({s for s in sizes if s >= 1 and low <= s <= high}))
    if len(choices) < 2:
        raise UsageError(
            f"-search: between {low:g} and {high:g} there are not two batch sizes of {batch} times "
            "a power of 2"
        )
    return Range(choices[0], choices[-1], choices)


def describe(values: Mapping[str, float]) -> str:
    """Return settings as text."""
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())

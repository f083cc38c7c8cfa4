"""Settings that may have a schedule: the field ``x``, or ``x_schedule`` in its place."""

from __future__ import annotations

import math
from collections.abc import Callable

from ...proto import schedule
from ..base import Layer


def has_schedule(layer: Layer, field: str) -> bool:
    """Whether a setting changes with the iteration."""
    return bool(layer.param.HasField(f"{field}_schedule"))


def current(layer: Layer, field: str) -> float:
    """Return a setting's value in the solver's current iteration."""
    if has_schedule(layer, field):
        points = getattr(layer.param, f"{field}_schedule")
        return schedule.value_at(points, layer.context.iteration)
    return float(getattr(layer.param, field))


def check_setting(layer: Layer, field: str, fits: Callable[[float], bool], rule: str) -> None:
    """Fail unless a setting, or every value of its schedule, is valid.

    Args:
        layer: the layer.
        field: the setting's name.
        fits: whether a value is valid; if two values are, so is every value between them.
        rule: the message, as "must be above 0".
    """
    if not has_schedule(layer, field):
        value = getattr(layer.param, field)
        if not fits(value):
            layer.fail(f"{field} {rule}", **{field: value})
        return
    name = f"{field}_schedule"
    if layer.param.HasField(field):
        layer.fail(f"{field} and {name} are both given: leave one of them out")
    points = getattr(layer.param, name)
    fault = schedule.fault(points)
    if fault is not None:
        layer.fail(f"{name} {fault}")
    for point in points.point:
        if not fits(point.value):
            layer.fail(f"{name}: {field} {rule}", iter=point.iter, value=point.value)


def check_temperature(layer: Layer) -> None:
    """Fail unless the layer's temperature is above 0 at all times."""
    check_setting(layer, "temperature", lambda t: 0 < t < math.inf, "must be above 0")

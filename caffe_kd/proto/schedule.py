"""Values that depend on the iteration, as pure functions of a ScheduleParameter and the iteration.

A schedule is a list of points (iteration, value) and a policy for the values between them. A
constant is one point; a warm-up two, with policy LINEAR; stages are points with policy STEP.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from . import caffe_pb2 as pb

# The fraction of the way from a point's value to the next, at fraction x of the time, 0..1.
_PROGRESS: dict[int, Callable[[float], float]] = {
    pb.ScheduleParameter.LINEAR: lambda x: x,
    pb.ScheduleParameter.COSINE: lambda x: (1 - math.cos(math.pi * x)) / 2,
    pb.ScheduleParameter.STEP: lambda x: 0.0,
    pb.ScheduleParameter.SIGMOID: lambda x: math.exp(-5 * (1 - x) ** 2),
}
_WORDS = {
    pb.ScheduleParameter.LINEAR: "linearly",
    pb.ScheduleParameter.COSINE: "along a cosine",
    pb.ScheduleParameter.SIGMOID: "along a sigmoid",
}


def fault(schedule: Any) -> str | None:
    """Return a message about what is wrong with a ScheduleParameter, or None."""
    if not schedule.point:
        return "needs at least one point { iter value }"
    if any(not p.HasField("value") or not math.isfinite(p.value) for p in schedule.point):
        return "needs a finite value in each point"
    iterations = [p.iter for p in schedule.point]
    if any(later <= earlier for earlier, later in zip(iterations, iterations[1:], strict=False)):
        return f"needs points of rising iter, not {', '.join(map(str, iterations))}"
    return None


def stage_at(schedule: Any, iteration: int) -> int:
    """Return the number of the last point reached, the first before any is."""
    reached = sum(p.iter <= iteration for p in schedule.point)
    return max(reached - 1, 0)


def value_at(schedule: Any, iteration: int) -> float:
    """Return a schedule's value in an iteration.

    With (i_k, v_k) the last point reached and x = (i - i_k) / (i_(k+1) - i_k):
    LINEAR: v_k + (v_(k+1) - v_k) x; COSINE: v_k + (v_(k+1) - v_k) (1 - cos(pi x)) / 2; SIGMOID:
    v_k + (v_(k+1) - v_k) exp(-5 (1 - x)^2), but v_k where x = 0; STEP: v_k.
    Before the first point it is v_0, from the last on that one's value.

    Args:
        schedule: a ScheduleParameter without fault.
        iteration: i, the number of updates done, 0 or more.

    Source of SIGMOID: the ramp-up of Tarvainen and Valpola 2017,
        https://arxiv.org/abs/1703.01780.
    """
    stage = stage_at(schedule, iteration)
    here = schedule.point[stage]
    if iteration <= here.iter or stage + 1 == len(schedule.point):
        return float(here.value)
    then = schedule.point[stage + 1]
    progress = _PROGRESS[schedule.policy]((iteration - here.iter) / (then.iter - here.iter))
    return float(here.value + (then.value - here.value) * progress)


def outlook(schedule: Any, iteration: int) -> str:
    """Describe the value in an iteration and how it continues."""
    now, stage = f"{value_at(schedule, iteration):g}", stage_at(schedule, iteration)
    if stage + 1 == len(schedule.point):
        return f"{now} from here on"
    here, then = schedule.point[stage : stage + 2]
    if schedule.policy == pb.ScheduleParameter.STEP or here.value == then.value:
        return f"{now} until iteration {then.iter}"
    if iteration < here.iter:
        now += f" until iteration {here.iter}, then"
    return f"{now} {_WORDS[schedule.policy]} to {then.value:g} in iteration {then.iter}"


def stretch(message: Any, factor: float) -> None:
    """Multiply the iterations of all points of the schedules in a message."""
    for field, value in message.ListFields():
        if field.message_type is None or field.is_repeated:
            continue
        if field.message_type is not pb.ScheduleParameter.DESCRIPTOR:
            stretch(value, factor)
            continue
        last = -1
        for point in value.point:  # each stays a later iteration than the one before
            last = point.iter = max(last + 1, round(point.iter * factor))

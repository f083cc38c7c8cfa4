"""What a caller asks of a training beyond the solver's prototxt."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """Settings that are no fields of the solver.

    Attributes:
        teacher_cache: whether the outputs of frozen layers are cached: auto, off, memory or disk.
        exact_sums: whether convolutions and inner products sum in float64 on the way forward, so
            that near ties fall as in Caffe.
        gradient_shares: every how many iterations the terms' shares in the student's gradient are
            logged; 0: never.
        seed: whether torch's random numbers start from ``random_seed``, or from one that is drawn
            where it is not given.
    """

    teacher_cache: str = "auto"
    exact_sums: bool = False
    gradient_shares: int = 0
    seed: bool = True

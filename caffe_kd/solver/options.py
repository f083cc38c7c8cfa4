"""Settings of a training beyond the solver's prototxt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """Settings that are not fields of the solver.

    Attributes:
        teacher_cache: whether the outputs of frozen layers are cached: auto, off, memory or disk.
        exact_sums: whether convolutions and inner products sum in float64 on the way forward, so
            that near ties are decided as in Caffe.
        gradient_shares: the interval, in iterations, at which each loss term's share of the
            student's gradient is logged; 0: never.
        tensorboard: the folder for TensorBoard's event files; None: none are written.
        tensorboard_histograms: whether they have histograms of the parameters too.
        seed: whether torch is seeded with ``random_seed``, or a random seed if that is not given.
    """

    teacher_cache: str = "auto"
    exact_sums: bool = False
    gradient_shares: int = 0
    tensorboard: Path | None = None
    tensorboard_histograms: bool = False
    seed: bool = True

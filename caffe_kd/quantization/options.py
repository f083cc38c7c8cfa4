"""How a net is quantised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from ..export.deploy import DeployOptions


class Method(Enum):
    """How the range of a blob is chosen."""

    MINMAX = "MINMAX"
    MSE = "MSE"
    PERCENTILE = "PERCENTILE"
    ENTROPY = "ENTROPY"
    AUTO = "AUTO"
    GIVEN = "GIVEN"


# Those that choose by the values of calibration samples, and among which AUTO chooses.
CALIBRATED = (Method.MINMAX, Method.MSE, Method.PERCENTILE, Method.ENTROPY)


@dataclass
class Options:
    """How to quantise.

    Attributes:
        method: how ranges are chosen.
        dynamic: whether activations get their ranges as the model runs, in place of ``method``.
        per_channel: whether weights have a scale for each output channel.
        symmetric: whether activations are int8 around 0, in place of uint8.
        percent: the share of the values that PERCENTILE stays within, in percent.
        iterations: how many batches calibrate; as many more are held out.
        test_iterations: how many batches of each data set are run; 0: all.
        exclude: layers that stay float.
        ranges: for GIVEN, a file of thresholds; None: the net's own quantization_param.
        evaluate: further nets, whose TEST data is run.
        preprocess: whether the model takes uint8 pixels.
        deploy: which net is deployed.
        timed: whether latency is measured.
        report: takes a line of progress.
    """

    method: Method = Method.MINMAX
    dynamic: bool = False
    per_channel: bool = False
    symmetric: bool = False
    percent: float = 99.99
    iterations: int = 8
    test_iterations: int = 0
    exclude: Sequence[str] = ()
    ranges: str | Path | None = None
    evaluate: Sequence[str | Path] = ()
    preprocess: bool = False
    deploy: DeployOptions = field(default_factory=DeployOptions)
    timed: bool = True
    report: Callable[[str], None] = lambda line: None

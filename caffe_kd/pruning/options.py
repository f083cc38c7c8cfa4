"""What is pruned, and how much of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..core.errors import UsageError

Shape = tuple[int, ...]

TARGETS = ("ratio", "macs", "parameters", "latency")
CRITERIA = ("L1", "L2", "BN_SCALE", "TAYLOR", "RANDOM")
_GLOBAL_FLOOR = 0.1  # a ranking of all channels would empty layers


@dataclass(frozen=True)
class NetState:
    """Which of a net's layers there are beside those of its phase, and what stands for its data.

    Attributes:
        level: the net's level.
        stages: its stages, besides those of its own ``state``.
        input_shapes: shapes of inputs whose data is absent, by blob.
    """

    level: int = 0
    stages: Sequence[str] = ()
    input_shapes: Mapping[str, Shape] = field(default_factory=dict)


@dataclass(frozen=True)
class PruneOptions:
    """What to prune, and how much of it.

    Attributes:
        target: which of TARGETS ``amount`` is.
        amount: the share of the channels that go; or how many multiply-adds, parameters or
            microseconds are left at most, a share of what there are where it is below 1.
        criterion: one of CRITERIA.
        scope: LAYER: the same share of each layer; GLOBAL: one ranking of all.
        floor: the least share of its channels that a layer keeps, one at least; None: 0.1 in a
            ranking of all, else 0.
        multiple: each layer that loses channels keeps a multiple of so many.
        layer_ratios: the share that goes of some layers, whatever the amount is.
        exclude: layers that keep their channels.
        whole: how many channels a layer had once, of which ``amount`` is a share; see ``Limits``.
        iterations: batches of training data, for TAYLOR and for the statistics of BatchNorm; 0:
            these stay as they are.
        seed: for RANDOM.
        must_remove: whether it is an error that nothing is removed.
        measures: whether the table has microseconds in ONNX Runtime.
        state: which of the net's layers there are.
    """

    target: str = "ratio"
    amount: float = 0.5
    criterion: str = "L1"
    scope: str = "LAYER"
    floor: float | None = None
    multiple: int = 1
    layer_ratios: Mapping[str, float] = field(default_factory=dict)
    exclude: Sequence[str] = ()
    whole: Mapping[tuple[str, ...], int] = field(default_factory=dict)
    iterations: int = 20
    seed: int = 0
    must_remove: bool = True
    measures: bool = False
    state: NetState = field(default_factory=NetState)

    @property
    def is_idle(self) -> bool:
        """Whether it asks for nothing to be removed."""
        return self.target == "ratio" and not self.amount and not any(self.layer_ratios.values())

    @property
    def least_kept(self) -> float:
        """The least share of its channels that a layer keeps."""
        if self.floor is None:
            return _GLOBAL_FLOOR if self.scope == "GLOBAL" else 0.0
        return self.floor

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            UsageError: a value is out of range.
        """
        least = self.least_kept
        if not 0 <= least < 1:
            raise UsageError(f"-floor must be at least 0 and below 1. Received: {least:g}")
        shares = {f"layer_ratio {name}=": share for name, share in self.layer_ratios.items()}
        if self.target == "ratio":
            shares["ratio "] = self.amount
        elif not self.amount > 0:
            raise UsageError(f"-{self.target} must be above 0. Received: {self.amount:g}")
        for flag, share in shares.items():
            if share >= 1:
                raise UsageError(
                    f"-{flag}{share:g} removes every channel of a layer, and nothing would pass "
                    "it. It must be below 1"
                )
            if not 0 <= share <= 1 - least:
                raise UsageError(
                    f"-{flag}{share:g} must be at least 0 and at most {1 - least:g}"
                    + (f", for -floor {least:g} keeps the rest" if least else "")
                )
        if self.criterion not in CRITERIA:
            known = ", ".join(CRITERIA)
            raise UsageError(f"-criterion is one of {known}. Received: {self.criterion}")
        if self.multiple < 1:
            raise UsageError(f"-multiple must be at least 1. Received: {self.multiple}")
        fewest = 1 if self.criterion == "TAYLOR" else 0
        if self.iterations < fewest:
            raise UsageError(f"-iterations must be at least {fewest}. Received: {self.iterations}")

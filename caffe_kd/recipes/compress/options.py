"""How far a net is compressed, and on which way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...core.errors import UsageError

FLOAT_BITS = 32
INT8_BITS = 8


@dataclass(frozen=True)
class CompressOptions:
    """How far a net is compressed, and on which way.

    Attributes:
        macs: the share of the multiply-adds that is left; None: nothing is pruned.
        bits: of a weight; below 8 by training alone; 32: float32.
        rounds: how often the net is pruned and distilled, each time by the same factor.
        iterations: of each training; None: as many as the solver says.
        criterion: what a channel is worth, as ``caffe_kd prune`` has it.
        scope: LAYER: the same share of each layer; GLOBAL: one ranking of all.
        floor: the least share of its first channels that a layer keeps; None: as prune has it.
        exclude: layers that keep their channels.
        qat: whether rounding is trained even if it costs little.
        tolerance: how many points of accuracy rounding may cost before it is trained.
    """

    macs: float | None = None
    bits: int = INT8_BITS
    rounds: int = 3
    iterations: int | None = None
    criterion: str = "L1"
    scope: str = "LAYER"
    floor: float | None = None
    exclude: Sequence[str] = ()
    qat: bool = False
    tolerance: float = 0.5

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            UsageError: a value is out of range, or there is nothing to do.
        """
        if self.macs is not None and not 0 < self.macs < 1:
            raise UsageError(
                f"-macs is the share of the multiply-adds that is left, above 0 and below 1. "
                f"Received: {self.macs:g}"
            )
        if self.bits != FLOAT_BITS and not 2 <= self.bits <= INT8_BITS:
            raise UsageError(f"-bits must be 2 to 8, or 32 for float32. Received: {self.bits}")
        if self.macs is None and self.bits == FLOAT_BITS:
            raise UsageError("nothing to do: give -macs, or -bits below 32")
        if self.rounds < 1:
            raise UsageError(f"-rounds must be at least 1. Received: {self.rounds}")
        if self.iterations is not None and self.iterations < 1:
            raise UsageError(f"-iterations must be at least 1. Received: {self.iterations}")
        if not self.tolerance >= 0:
            raise UsageError(f"-tolerance must be at least 0. Received: {self.tolerance:g}")
        if self.qat and self.bits == FLOAT_BITS:
            raise UsageError("-qat trains the rounding to -bits, and -bits 32 rounds nothing")

    def share(self, done: int) -> float:
        """Return the share of the multiply-adds that is left after so many rounds."""
        assert self.macs is not None
        return self.macs ** (done / self.rounds)

"""From a net's prototxt to the net."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..proto import caffe_pb2 as pb
from ..proto import text
from ..proto.filter import filter_net
from ..proto.upgrade import Notes, upgrade_net
from .net import Net


def read_net(path: str | Path, notes: Notes | None = None) -> Any:
    """Read a net's prototxt in the current format; ``notes`` collects what was upgraded."""
    return upgrade_net(text.read(path, pb.NetParameter()), str(path), notes)


def load_net(
    path: str | Path,
    phase: int = pb.TEST,
    level: int = 0,
    stages: Sequence[str] = (),
    notes: Notes | None = None,
) -> Net:
    """Read a net's prototxt, filter it for a state and build it; ``notes`` as in ``read_net``.

    Phase and level given here override a ``state`` in the file; its stages are added to those
    given.
    """
    param = read_net(path, notes)
    state = pb.NetState(phase=phase, level=level, stage=[*param.state.stage, *stages])
    return Net(filter_net(param, state), phase, path, unfiltered=param)

"""How much memory there is."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

# What a container may take, where it runs in one: version 2 and version 1 of control groups.
CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@cache
def machine_bytes() -> int | None:
    """Return the memory of this machine or container in bytes; None where it cannot be told."""
    try:
        sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None
    for path in CONTAINER_LIMITS:
        try:
            sizes.append(int(path.read_text()))
        except (OSError, ValueError):  # not in a container, or "max"
            continue
    return min(sizes)

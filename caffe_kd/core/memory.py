"""How much memory there is, and how much of it reading a file may use."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

# Memory limits of a container: version 2 and version 1 of control groups.
CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)

# Reading a file takes at most 4 times its length and 64 MB. Of these the values may take all but a
# part, which is left to the library that unpacks them.
MOST_GROWTH = 4
ROOM_BYTES = 64 << 20
_LIBRARY_BYTES = 16 << 20


@cache
def machine_bytes() -> int | None:
    """Return the memory of this machine or container in bytes; None where it is unknown."""
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


def growth_problem(needed: int, file_bytes: int) -> str | None:
    """Return the problem where a file's values need too much memory for its length, else None.

    Args:
        needed: bytes of the values in memory.
        file_bytes: the file's length.
    """
    most = MOST_GROWTH * file_bytes + ROOM_BYTES - _LIBRARY_BYTES
    if needed <= most:
        return None
    return (
        f"its values would take {needed} bytes, where a file of {file_bytes} may grow to {most}: "
        f"{MOST_GROWTH} times its length and {(ROOM_BYTES - _LIBRARY_BYTES) >> 20} MB"
    )

"""Downloads a file of a known size; it gets its name only once it is checked."""

from __future__ import annotations

import http.client
import queue
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..core.errors import DataError
from ..core.files import replacing

_PATIENCE_SECONDS = 4.0  # for a server to respond


def fetch(url: str, path: Path, size: int, check: Callable[[Path], None]) -> None:
    """Download a file, with a progress bar on a terminal.

    Args:
        url: its address.
        path: where it goes.
        size: how many bytes it has.
        check: raises DataError where a path does not hold the right file.

    Raises:
        DataError: it cannot be downloaded, or is another one.
    """
    from tqdm import tqdm  # type: ignore[import-untyped]

    with replacing(path) as temporary:
        try:
            with (
                _open(url) as response,
                temporary.open("wb") as part,
                tqdm(total=size, unit="B", unit_scale=True, desc=path.name, disable=None) as bar,
            ):
                # One byte more than expected is enough to know that it is a different file.
                while part.tell() <= size and (chunk := response.read(1 << 16)):
                    part.write(chunk)
                    bar.update(len(chunk))
        except (OSError, http.client.HTTPException) as error:
            raise DataError(str(error), url) from error
        try:
            check(temporary)
        except DataError as error:
            raise DataError(f"wrong checksum or damaged: {error.message}", url) from error


def _open(url: str) -> Any:
    """Open an address, or raise OSError within seconds.

    urllib's timeout applies to each address of a host and not to the name lookup, so the wait is
    bounded here and the attempt continues in a thread of its own.
    """
    result: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def attempt() -> None:
        try:
            result.put(urllib.request.urlopen(url, timeout=_PATIENCE_SECONDS))
        except Exception as error:  # raised again in the waiting thread
            result.put(error)

    threading.Thread(target=attempt, daemon=True).start()
    try:
        outcome = result.get(timeout=_PATIENCE_SECONDS)
    except queue.Empty:
        raise TimeoutError(f"no response within {_PATIENCE_SECONDS:g} seconds") from None
    if isinstance(outcome, Exception):
        raise outcome
    return outcome

"""How much memory the values of an HDF5 dataset need.

A dataset may be stored in compressed chunks: a small file can then state, or decompress to, any
number of values. HDF5 itself decompresses a chunk before it checks the size.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

from ..core.memory import growth_problem

_DEFLATE, _SHUFFLE, _FLETCHER32, _LZF = 1, 2, 3, 32000  # filters by their numbers in HDF5
_MOST_EXPANSION = {_DEFLATE: 1032, _LZF: 88}  # of one byte
_PIECE = 1 << 20


def dataset_problem(dataset: Any, value_bytes: int, file_bytes: int, taken: int = 0) -> str | None:
    """Return why a dataset cannot be read within the bounds of its file, None if it can.

    Args:
        dataset: an ``h5py.Dataset``.
        value_bytes: memory of one of its values.
        file_bytes: the length of its file.
        taken: bytes read from the file before.
    """
    chunk = math.prod(dataset.chunks or (0,)) * dataset.dtype.itemsize
    needed = taken + math.prod(dataset.shape) * value_bytes + 2 * chunk
    problem = growth_problem(needed, file_bytes) or _chunk_problem(dataset, chunk, file_bytes)
    return f"{problem}. 'h5repack -f NONE OLD NEW' decompresses a file" if problem else None


def _chunk_problem(dataset: Any, chunk: int, file_bytes: int) -> str | None:
    """Return which chunk decompresses to more than it should."""
    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    unknown = set(filters) - {_DEFLATE, _SHUFFLE, _FLETCHER32, _LZF}
    if unknown:
        return f"its chunks are compressed by the filter {min(unknown)}, which is not supported"
    packings = [f for f in filters if f in _MOST_EXPANSION]
    if not packings:
        return None
    if len(packings) > 1:
        return "its chunks are compressed twice"
    most_unpacked = _MOST_EXPANSION[packings[0]]
    large: list[Any] = []

    def look(info: Any) -> None:
        if growth_problem(info.size * most_unpacked, file_bytes):
            large.append(info)

    dataset.id.chunk_iter(look)
    for info in large:
        if packings[0] != _DEFLATE or not _unpacks(dataset, info, chunk):
            return f"its chunk at {info.chunk_offset} decompresses to more than its {chunk} bytes"
    return None


def _unpacks(dataset: Any, info: Any, chunk: int) -> bool:
    """Return whether a deflated chunk decompresses to its size, in small pieces."""
    if info.filter_mask:  # some filter was left out for this chunk
        return info.size <= chunk + 4
    _, packed = dataset.id.read_direct_chunk(info.chunk_offset)
    unpacker = zlib.decompressobj()
    size = len(unpacker.decompress(packed, _PIECE))
    while not unpacker.eof and size <= chunk + 4:  # with a checksum of 4 bytes, maybe
        piece = unpacker.decompress(unpacker.unconsumed_tail, _PIECE)
        if not piece:
            break
        size += len(piece)
    return size <= chunk + 4

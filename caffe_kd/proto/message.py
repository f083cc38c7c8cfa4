"""Reads and writes a whole net in binary, its blobs inside the message.

Training and export read weights without the message around them (``binary.py``), which is faster.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from ..errors import ParseError
from ..files import write_atomically
from . import caffe_pb2 as pb
from .binary import read_weights
from .text import clear_source_lines
from .wire import HDF5_MAGIC, map_file


def read_net(path: str | Path) -> Any:
    """Read a ``.caffemodel`` of any year into a NetParameter, as it is.

    Raises:
        ParseError: the file is missing, damaged, cut short, or holds something else.
    """
    data = map_file(path)
    if data[: len(HDF5_MAGIC)] == HDF5_MAGIC:
        raise ParseError("is an HDF5 file, which holds weights but no net", str(path))
    read_weights(path)  # tells what is wrong with it, and bounds how many messages it can make
    net = pb.NetParameter()
    try:
        net.ParseFromString(memoryview(data))
    except DecodeError as error:
        raise ParseError(f"is not a caffemodel, or is damaged: {error}", str(path)) from None
    clear_source_lines(net)
    return net


def write_net(path: str | Path, net: Any) -> None:
    """Write a NetParameter in binary, atomically.

    Raises:
        CaffeKDError: the file cannot be written.
    """
    write_atomically(path, net.SerializePartialToString())

"""``formats``: lists the file formats that are read and written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .command_parser import CommandParser
from .guard import guarded


@dataclass(frozen=True)
class Format:
    """A file format, with its reader and writer as ``module:function``; empty if it has none."""

    name: str
    files: str
    reader: str
    writer: str
    note: str


FORMATS = (
    Format("net", ".prototxt", "proto.text:read", "proto.text:write",
           "V0, V1, mixed, current; the forks' fields by name"),
    Format("several nets in one file", ".prototxt", "proto.bundle:read", "",
           "teacher and student, each begun by `name:`"),
    Format("solver", ".prototxt", "proto.text:read", "proto.text:write",
           "solver_type too; teachers, layers inside it"),
    Format("weights", ".caffemodel", "proto.binary:read_weights", "proto.binary:write_weights",
           "V0 to current, old 4-D blobs, double_data; unknown fields survive an upgrade"),
    Format("weights, HDF5", ".caffemodel.h5", "proto.hdf5:read_weights",
           "proto.binary:write_weights_hdf5", "with diffs on request"),
    Format("solver state", ".solverstate", "proto.binary:read_solver_state",
           "proto.binary:write_solver_state", "those of 2014 too"),
    Format("solver state, HDF5", ".solverstate.h5", "proto.binary:read_solver_state",
           "proto.binary:write_solver_state", ""),
    Format("mean image", ".binaryproto", "proto.binary:read_blob", "proto.binary:write_blob", ""),
    Format("LMDB of Datum", "folder", "data.backends.lmdb:LmdbSamples",
           "data.backends.lmdb:write_lmdb", "raw and encoded images, float_data"),
    Format("LevelDB of Datum", "folder", "data.backends.leveldb:LevelDbSamples", "",
           "needs no further packages"),
    Format("rows in HDF5", ".h5", "data.hdf5:HDF5Rows", "layers.data.hdf5_output:HDF5Output",
           "HDF5Data reads, HDF5Output writes"),
    Format("MNIST's IDX", "-ubyte, .gz", "data.backends.idx:read_idx",
           "data.backends.idx:write_idx", "`backend: IDX`"),
    Format("images", ".png, .jpg, …", "data.image_file:decode_image", "",
           "by list (ImageData) or folder"),
    Format("ONNX", ".onnx", "layers.utility.onnx_model:ONNXModel", "export.onnx:to_onnx",
           "read as a teacher; written for inference"),
)  # fmt: skip


SUMMARY = "list the file formats"
GROUP = "check"
EXAMPLE = ""
DESCRIPTION = "Prints the file formats that are read and written."


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser().parse_args(argv)
    for line in table():
        print(line)
    return 0


def parser() -> CommandParser:
    """Return the command's parser."""
    return CommandParser("formats", DESCRIPTION, EXAMPLE)


def table() -> list[str]:
    """Return a Markdown table with a row a format."""
    rows = ["| format | files | read | written | |", "|---|---|---|---|---|"]
    for entry in FORMATS:
        marks = ("yes" if function else "no" for function in (entry.reader, entry.writer))
        rows.append(f"| {entry.name} | {entry.files} | {' | '.join(marks)} | {entry.note} |")
    return rows

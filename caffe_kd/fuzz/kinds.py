"""The kinds of files that are damaged: how good ones are made, and how each is read."""

from __future__ import annotations

import contextlib
import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import printable
from . import seeds

if TYPE_CHECKING:
    from ..data.source import SampleSource

Commands = Callable[[list[str]], int]
"""Runs a command of ``caffe_kd``, given its name and arguments."""


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: its name for ``-only``.
        seeds: returns good files, or folders of them; it may write into the folder it is given.
        read: reads one, and what a user would read next.
        suffix: of the damaged file's name; empty for folders.
        share: how many inputs, relative to other kinds; fewer for slow ones.
    """

    name: str
    seeds: Callable[[Path], Iterable[Path]]
    read: Callable[[Path], object]
    suffix: str
    share: float = 1.0


def kinds(golden: Path, run: Commands) -> list[Kind]:
    """Return all kinds.

    Args:
        golden: a folder of recorded files, which need not exist.
        run: the command line, for the kinds that are read by commands.
    """
    data = golden / "data"

    def there(*patterns: str) -> Callable[[Path], Iterable[Path]]:
        return lambda _folder: [path for p in patterns for path in sorted(golden.glob(p))[:40]]

    def both(
        make: Callable[[Path], Iterable[Path]], *patterns: str
    ) -> Callable[[Path], Iterable[Path]]:
        return lambda folder: [*make(folder), *there(*patterns)(folder)]

    return [
        Kind("net", both(seeds.nets, "layers/*.prototxt"), _read_net, ".prototxt"),
        Kind(
            "command",
            both(seeds.nets, "layers/*.prototxt"),
            partial(_run_commands, run),
            ".prototxt",
            0.2,
        ),
        Kind(
            "solver",
            both(seeds.solvers, "*/*.solver.prototxt"),
            partial(_read_solver, run),
            ".prototxt",
            0.2,
        ),
        Kind("weights", both(seeds.weights, "*/*.caffemodel"), _read_weights, ".caffemodel"),
        Kind("weights-h5", seeds.weights_h5, _read_weights, ".caffemodel.h5"),
        Kind("state", both(seeds.states, "*/*.solverstate"), _read_state, ".solverstate"),
        Kind("state-h5", seeds.states_h5, _read_state, ".solverstate.h5"),
        Kind("resume", seeds.resumes, _read_resume, ".resume"),
        Kind("resume-array", seeds.arrays_of_resumes, _read_array_of_resume, ".resume"),
        Kind("rows-h5", seeds.rows, _read_rows, ".h5"),
        Kind("recording", both(seeds.recordings, "layers/*.npz"), _read_recording, ".npz"),
        Kind("recording-array", seeds.arrays_of_recordings, _read_array_of_recording, ".npz"),
        Kind("idx-packed", seeds.plain_idx, _read_packed_idx, "-images-idx3-ubyte"),
        Kind("idx", seeds.idx, _read_idx, "-images-idx3-ubyte"),
        Kind("lmdb", both(seeds.lmdbs, "data/*_lmdb"), _read_lmdb, ""),
        Kind("leveldb", there("data/*_leveldb"), _read_leveldb, ""),
        Kind("image", both(seeds.images, "data/images/*"), _read_image, ".img"),
        Kind("image-list", seeds.lists(data), _read_list, ".txt"),
        Kind("windows", seeds.windows, _read_windows, ".txt"),
        Kind("mean", both(seeds.means, "data/*.binaryproto"), _read_mean, ".binaryproto"),
        Kind("onnx", seeds.onnx, _read_onnx, ".onnx", 0.5),
        Kind("log", seeds.logs, partial(_read_log, run), ".log", 0.2),
    ]


# ---- how they are read


def _read_net(path: Path) -> None:
    from ..proto import caffe_pb2 as pb
    from ..proto import text
    from ..proto.upgrade import upgrade_net

    text.to_text(upgrade_net(text.read(path, pb.NetParameter()), str(path)))


def _run_commands(run: Commands, path: Path) -> None:
    """Read a net by the commands that build it without running its layers."""
    _check(run, "summarize", str(path))
    _check(run, "make_deploy", "-model", str(path))
    _check(run, "doctor", str(path))
    _check(run, "draw_net", str(path), str(path.with_name("out.svg")))


def _check(run: Commands, *words: str) -> None:
    """Run a command, check its output, and raise its error."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        run(list(words))
    check_printed(out.getvalue())


def check_printed(text: str) -> None:
    """Raise AssertionError if the output has control characters for a terminal."""
    if any(printable(line) != line for line in text.split("\n")):
        raise AssertionError(f"control characters were printed: {ascii(text)}")


def _read_solver(run: Commands, path: Path) -> None:
    from ..solver.plan import read_plan

    _check(run, "compose_kd", "-solver", str(path))
    _check(run, "explain_kd", "-solver", str(path))
    _check(run, "doctor", str(path))
    read_plan(path)


def _read_weights(path: Path) -> None:
    from ..proto.binary import read_weights

    layers = read_weights(path)
    for layer in layers:
        for blob in layer.blobs:
            if blob is not None:
                blob.sum()
    seeds.net().copy_weights(layers, str(path))


def _read_state(path: Path) -> None:
    from ..proto.binary import read_solver_state

    for blob in read_solver_state(path).history:
        blob.sum()


def _read_resume(path: Path) -> None:
    from ..solver import resume

    resume.read(path, seeds.CHECKS, [seeds.net()], {}, lambda line: None)


def _read_array_of_resume(path: Path) -> None:
    """Read a .resume with right checksums and a damaged array."""
    from ..solver import resume

    content, packed = path.read_bytes(), io.BytesIO()
    (good,) = seeds.resumes(path.parent)
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(packed, "w") as new:
        names = old.namelist()
        changed = names[zlib.crc32(content) % len(names)]
        for name in names:
            new.writestr(name, content if name == changed else old.read(name))
    path.write_bytes(resume.sealed(packed.getvalue()))
    _read_resume(path)


def _read_rows(path: Path) -> None:
    from ..data.hdf5 import HDF5Rows

    rows = HDF5Rows(seeds.write_text(path.parent, "list", str(path)), ["data", "label"])
    rows.read(np.arange(min(len(rows), 4)))


def _read_recording(path: Path) -> None:
    from ..verify.recording import read_recording

    for value in read_recording(path).values():
        value.sum()


def _read_array_of_recording(path: Path) -> None:
    """Read a recording with right checksums and a damaged array."""
    content = path.read_bytes()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", content)
    _read_recording(path)


def _read_packed_idx(path: Path) -> None:
    """Read a gzip archive with a right checksum and damaged content."""
    path.write_bytes(gzip.compress(path.read_bytes()))
    _read_idx(path)


def _read_idx(path: Path) -> None:
    from ..data.backends.idx import open_idx

    labels = struct.pack(">II", 0x801, 20) + bytes(range(20))
    path.with_name(path.name.replace("images-idx3", "labels-idx1")).write_bytes(labels)
    open_idx(str(path), Path).read(0)


def _read_database(samples: SampleSource) -> None:
    for index in range(min(len(samples), 12)):
        samples.read(index)


def _read_lmdb(path: Path) -> None:
    from ..data.backends.lmdb import LmdbSamples

    _read_database(LmdbSamples(path))


def _read_leveldb(path: Path) -> None:
    from ..data.backends.leveldb import LevelDbSamples

    _read_database(LevelDbSamples(path))


def _read_image(path: Path) -> None:
    from ..data.image_file import decode_image, decode_on_white

    for color in (True, False):
        decode_image(path.read_bytes(), str(path), color)
    decode_on_white(path.read_bytes(), str(path), True, (8, 8))


def _read_list(path: Path) -> None:
    from ..data.image_list import ImageListSamples, read_list

    samples = ImageListSamples(read_list(path), path)
    for index in range(min(len(samples), 3)):
        samples.read(index)


def _read_windows(path: Path) -> None:
    from ..data.windows import read_windows

    read_windows(path, 0.5, 0.5)


def _read_mean(path: Path) -> None:
    from ..data.transformer import _read_mean
    from ..proto.binary import read_blob

    read_blob(path).sum()
    _read_mean(path)


def _read_onnx(path: Path) -> None:
    from ..proto.onnx_file import open_session, read_ports

    read_ports(path)
    open_session(path, threads=1)


def _read_log(run: Commands, path: Path) -> None:
    _check(run, "parse_log", str(path), str(path.parent))
    _check(run, "plot_training_log", "6", str(path.with_name("out.png")), str(path))

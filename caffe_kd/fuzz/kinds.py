"""The kinds of files that are damaged: where good ones come from, and how each is read."""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core import examples
from ..core.errors import printable

if TYPE_CHECKING:
    from ..data.source import RecordSource
    from ..net import Net

NET = """name: "small"
layer { name: "data" type: "Input" top: "data" input_param {
  shape { dim: 2 dim: 1 dim: 6 dim: 6 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param {
  num_output: 2 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip" inner_product_param {
  num_output: 3 weight_filler { type: "gaussian" std: 0.1 } } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: as ``-only`` names it.
        seeds: returns good files, or folders of them; it may write into the folder it is given.
        read: reads one, and what a user would read after it.
        suffix: of the damaged file's name; empty for folders.
        share: how many inputs, beside other kinds; those that take long have fewer.
    """

    name: str
    seeds: Callable[[Path], Iterable[Path]]
    read: Callable[[Path], object]
    suffix: str
    share: float = 1.0


def kinds(golden: Path) -> list[Kind]:
    """Return all kinds; ``golden`` is a folder of recorded files, which need not be there."""
    data = golden / "data"

    def there(*patterns: str) -> Callable[[Path], Iterable[Path]]:
        return lambda _folder: [path for p in patterns for path in sorted(golden.glob(p))[:40]]

    def both(
        make: Callable[[Path], Iterable[Path]], *patterns: str
    ) -> Callable[[Path], Iterable[Path]]:
        return lambda folder: [*make(folder), *there(*patterns)(folder)]

    return [
        Kind("net", both(_nets, "layers/*.prototxt"), _read_net, ".prototxt"),
        Kind("command", both(_nets, "layers/*.prototxt"), _run_commands, ".prototxt", 0.2),
        Kind("solver", both(_solvers, "*/*.solver.prototxt"), _read_solver, ".prototxt", 0.2),
        Kind("weights", both(_weights, "*/*.caffemodel"), _read_weights, ".caffemodel"),
        Kind("weights-h5", _weights_h5, _read_weights, ".caffemodel.h5"),
        Kind("state", both(_states, "*/*.solverstate"), _read_state, ".solverstate"),
        Kind("state-h5", _states_h5, _read_state, ".solverstate.h5"),
        Kind("resume", _resumes, _read_resume, ".resume"),
        Kind("resume-array", _arrays_of_resumes, _read_array_of_resume, ".resume"),
        Kind("rows-h5", _rows, _read_rows, ".h5"),
        Kind("recording", both(_recordings, "layers/*.npz"), _read_recording, ".npz"),
        Kind("recording-array", _arrays_of_recordings, _read_array_of_recording, ".npz"),
        Kind("idx-packed", _plain_idx, _read_packed_idx, "-images-idx3-ubyte"),
        Kind("idx", _idx, _read_idx, "-images-idx3-ubyte"),
        Kind("lmdb", both(_lmdbs, "data/*_lmdb"), _read_lmdb, ""),
        Kind("leveldb", there("data/*_leveldb"), _read_leveldb, ""),
        Kind("image", both(_images, "data/images/*"), _read_image, ".img"),
        Kind("image-list", _lists(data), _read_list, ".txt"),
        Kind("windows", _windows, _read_windows, ".txt"),
        Kind("mean", both(_means, "data/*.binaryproto"), _read_mean, ".binaryproto"),
        Kind("onnx", _onnx, _read_onnx, ".onnx", 0.5),
        Kind("log", _logs, _read_log, ".log", 0.2),
    ]


# ---- good files


def _text(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_text(content)
    return path


def _nets(folder: Path) -> Iterable[Path]:
    found = [p for p in _examples() if "solver" not in p.stem and p.parent.name != "article"]
    return [_text(folder, "small.prototxt", NET), *found]


def _solvers(folder: Path) -> Iterable[Path]:
    net = _text(folder, "small.prototxt", NET)
    (weights,) = _weights(folder)
    loss = 'layer { name: "kd" type: "DistillingLoss" bottom: "ip" bottom: "teacher/ip" top: "kd" }'
    distiller = _text(folder, "distiller.prototxt", loss)
    settings = (
        f'net: "{net}"\nbase_lr: 0.1\nlr_policy: "step"\nstepsize: 5\ngamma: 0.1\nmax_iter: 10\n'
        'momentum: 0.9\nsnapshot_prefix: "s"\ntype: "SGD"\ndisplay: 2\n'
    )
    teacher = (
        f'teacher {{ name: "teacher" net: "{net}" weights: "{weights}" }}\n'
        f'distiller_net: "{distiller}"\n'
    )
    own = _text(folder, "kd_solver.prototxt", settings + teacher)
    return [*[own] * 40, *(p for p in _examples() if "solver" in p.stem)]


def _examples() -> list[Path]:
    return sorted(examples.folder("mnist").parent.resolve().glob("*/*.prototxt"))


def _net() -> Net:
    from ..net import Net
    from ..proto import caffe_pb2 as pb
    from ..proto import text

    return Net(text.parse(NET, pb.NetParameter()), pb.TEST)


def _param_and_blobs() -> tuple[Any, dict[str, list[np.ndarray]]]:
    from ..proto import caffe_pb2 as pb
    from ..proto import text

    draw = np.random.default_rng(0)
    shapes = {"conv": [(2, 1, 3, 3), (2,)], "ip": [(3, 18), (3,)]}
    blobs = {
        name: [draw.standard_normal(s).astype(np.float32) for s in of]
        for name, of in shapes.items()
    }
    return text.parse(NET, pb.NetParameter()), blobs


def _weights(folder: Path) -> Iterable[Path]:
    from ..proto.binary import write_weights

    write_weights(folder / "a.caffemodel", *_param_and_blobs())
    return [folder / "a.caffemodel"]


def _weights_h5(folder: Path) -> Iterable[Path]:
    import h5py

    from ..proto.binary import write_weights_hdf5

    write_weights_hdf5(folder / "a.caffemodel.h5", *_param_and_blobs())
    with h5py.File(folder / "b.caffemodel.h5", "w") as file:  # packed
        for name, blobs in _param_and_blobs()[1].items():
            for i, blob in enumerate(blobs):
                file.create_dataset(f"data/{name}/{i}", data=blob, compression=4, shuffle=True)
    return [folder / "a.caffemodel.h5", folder / "b.caffemodel.h5"]


def _state(path: Path) -> Iterable[Path]:
    from ..proto.binary import SolverState, write_solver_state

    history = list(itertools.chain(*_param_and_blobs()[1].values()))
    write_solver_state(path, SolverState(7, "a_iter_7.caffemodel", history, 1))
    return [path]


def _states(folder: Path) -> Iterable[Path]:
    return _state(folder / "a.solverstate")


def _states_h5(folder: Path) -> Iterable[Path]:
    return _state(folder / "a.solverstate.h5")


def _rows(folder: Path) -> Iterable[Path]:
    import h5py

    draw = np.random.default_rng(0)
    for name, options in (("a.h5", {}), ("b.h5", {"compression": 9, "shuffle": True})):
        with h5py.File(folder / name, "w") as file:
            data = draw.standard_normal((20, 3, 4)).astype(np.float32)
            file.create_dataset("data", data=data, **options)
            file.create_dataset("label", data=np.arange(20) % 3, **options)
    return [folder / "a.h5", folder / "b.h5"]


def _recordings(folder: Path) -> Iterable[Path]:
    from ..verify.recording import write_recording

    draw = np.random.default_rng(0)
    values = {"in/data": draw.standard_normal((2, 1, 6, 6)), "out/prob": np.zeros((2, 3))}
    write_recording(folder / "a.npz", values)
    np.savez(folder / "b.npz", x=np.arange(5), y=values["in/data"])
    return [folder / "a.npz", folder / "b.npz"]


def _idx(folder: Path) -> Iterable[Path]:
    images = struct.pack(">IIII", 0x803, 20, 6, 6) + bytes(range(180)) * 4
    labels = struct.pack(">II", 0x801, 20) + bytes(range(20))
    (folder / "a-images-idx3-ubyte").write_bytes(images)
    (folder / "b-images-idx3-ubyte").write_bytes(gzip.compress(images, mtime=0))
    for name in "ab":
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(labels)
    return [folder / "a-images-idx3-ubyte", folder / "b-images-idx3-ubyte"]


def _datum(label: int) -> bytes:
    from ..proto import caffe_pb2 as pb

    datum = pb.Datum(channels=1, height=6, width=6, data=bytes([label]) * 36, label=label)
    if label % 3 == 2:
        datum = pb.Datum(channels=1, height=2, width=1, float_data=[0.5, label], label=label)
    return bytes(datum.SerializeToString())


def _lmdbs(folder: Path) -> Iterable[Path]:
    from ..data.lmdb import write_lmdb

    write_lmdb(folder / "lmdb", ((b"%08d" % i, _datum(i)) for i in range(120)))
    return [folder / "lmdb"]


def _images(folder: Path) -> Iterable[Path]:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    made = []
    for name, picture in (("rgb", image), ("grey", image.convert("L")), ("p", image.convert("P"))):
        for ending in ("png", "jpg", "bmp", "tiff", "webp", "gif"):
            if (name, ending) != ("p", "jpg"):
                path = folder / f"{name}.{ending}"
                picture.save(path)
                made.append(path)
    return made


def _lists(data: Path) -> Callable[[Path], Iterable[Path]]:
    def make(folder: Path) -> Iterable[Path]:
        images = [p for p in _images(folder) if p.suffix in (".png", ".jpg")]
        lines = "".join(f"{path} {label}\n" for label, path in enumerate(images))
        return [_text(folder, "list.txt", lines), *([data / "list.txt"] if data.is_dir() else [])]

    return make


def _windows(folder: Path) -> Iterable[Path]:
    content = "".join(
        f"# {i}\nimage{i}.jpg\n3\n20\n24\n3\n1 0.9 1 2 10 12\n2 0.1 0 0 5 5\n0 0.0 3 3 9 9\n"
        for i in range(5)
    )
    return [_text(folder, "windows.txt", content)]


def _means(folder: Path) -> Iterable[Path]:
    from ..proto.binary import write_blob

    write_blob(folder / "mean.binaryproto", np.full((1, 3, 5, 5), 100.5, np.float32))
    return [folder / "mean.binaryproto"]


def _onnx(folder: Path) -> Iterable[Path]:
    from ..export.onnx import to_onnx

    to_onnx(_net(), folder / "a.onnx")
    return [folder / "a.onnx"]


def _logs(folder: Path) -> Iterable[Path]:
    lines = ["Solving small"]
    for i in range(0, 60, 10):
        lines += [f"Iteration {i}, Testing net (#0)", "    Test net output #0: accuracy = 0.9",
                  f"    Test net output #1: loss = {2 / (i + 1)} (* 1 = {2 / (i + 1)} loss)",
                  f"Iteration {i}, loss = {2 / (i + 1)}",
                  f"    Train net output #0: loss = {2 / (i + 1)} (* 1 = 2 loss)",
                  f"Iteration {i}, lr = 0.01"]  # fmt: skip
    content = "".join(
        f"I0102 03:04:{i % 60:02d}.000000  1 solver.cpp:9] {line}\n" for i, line in enumerate(lines)
    )
    return [_text(folder, "a.log", content)]


# ---- how they are read


def _read_net(path: Path) -> None:
    from ..proto import caffe_pb2 as pb
    from ..proto import text
    from ..proto.upgrade import upgrade_net

    text.to_text(upgrade_net(text.read(path, pb.NetParameter()), str(path)))


def _run_commands(path: Path) -> None:
    """Look at a net as a user would, by the commands that build it but run none of its layers."""
    from ..cli import doctor, draw_net, make_deploy, summarize

    draw = [str(path), str(path.with_name("out.svg"))]
    for command, words in (
        (summarize, [str(path)]),
        (make_deploy, ["-model", str(path)]),
        (doctor, [str(path)]),
        (draw_net, draw),
    ):
        run_command(command.main, words)


def run_command(main: Callable[[list[str]], int], words: list[str]) -> None:
    """Run a command, hold what it prints against the rules, and raise what it ends with."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        main(words)
    check_printed(out.getvalue())


def check_printed(text: str) -> None:
    """Raise AssertionError where a terminal would be sent control characters."""
    if any(printable(line) != line for line in text.split("\n")):
        raise AssertionError(f"control characters were printed: {ascii(text)}")


def _read_solver(path: Path) -> None:
    from ..cli import compose_kd, doctor, explain_kd
    from ..solver.plan import read_plan

    for command, words in (
        (compose_kd, ["-solver", str(path)]),
        (explain_kd, ["-solver", str(path)]),
        (doctor, [str(path)]),
    ):
        run_command(command.main, words)
    read_plan(path)


def _read_weights(path: Path) -> None:
    from ..proto.binary import read_weights

    layers = read_weights(path)
    for layer in layers:
        for blob in layer.blobs:
            if blob is not None:
                blob.sum()
    _net().copy_weights(layers, str(path))


def _read_state(path: Path) -> None:
    from ..proto.binary import read_solver_state

    for blob in read_solver_state(path).history:
        blob.sum()


_CHECKS = {"weights": 7}


def _resumes(folder: Path) -> Iterable[Path]:
    from ..solver import resume

    resume.write(folder / "a.resume", _CHECKS, [_net()], [1.0, 0.5], {})
    return [folder / "a.resume"]


def _arrays_of_resumes(folder: Path) -> Iterable[Path]:
    """Return the arrays that a .resume is made of, as files of their own."""
    (good,) = _resumes(folder)
    with zipfile.ZipFile(good) as archive:
        return [Path(archive.extract(name, folder)) for name in archive.namelist()]


def _read_resume(path: Path) -> None:
    from ..solver import resume

    resume.read(path, _CHECKS, [_net()], {}, lambda line: None)


def _read_array_of_resume(path: Path) -> None:
    """Read a .resume whose checksums are right, but one of its arrays is not."""
    from ..solver import resume

    content, packed = path.read_bytes(), io.BytesIO()
    (good,) = _resumes(path.parent)
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(packed, "w") as new:
        names = old.namelist()
        changed = names[zlib.crc32(content) % len(names)]
        for name in names:
            new.writestr(name, content if name == changed else old.read(name))
    path.write_bytes(resume.sealed(packed.getvalue()))
    _read_resume(path)


def _read_rows(path: Path) -> None:
    from ..data.hdf5 import HDF5Rows

    rows = HDF5Rows(_text(path.parent, "list", str(path)), ["data", "label"])
    rows.read(np.arange(min(len(rows), 4)))


def _read_recording(path: Path) -> None:
    from ..verify.recording import read_recording

    for value in read_recording(path).values():
        value.sum()


def _arrays_of_recordings(folder: Path) -> Iterable[Path]:
    np.save(folder / "a.npy", np.arange(12.0).reshape(3, 4))
    np.save(folder / "b.npy", np.asfortranarray(np.eye(3, dtype=np.float16)))
    return [folder / "a.npy", folder / "b.npy"]


def _read_array_of_recording(path: Path) -> None:
    """Read a recording whose checksums are right, but whose array is not."""
    content = path.read_bytes()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", content)
    _read_recording(path)


def _plain_idx(folder: Path) -> Iterable[Path]:
    return list(_idx(folder))[:1]


def _read_packed_idx(path: Path) -> None:
    """Read a gzip archive whose checksum is right, but whose content is not."""
    path.write_bytes(gzip.compress(path.read_bytes()))
    _read_idx(path)


def _read_idx(path: Path) -> None:
    from ..data.idx import open_idx

    labels = struct.pack(">II", 0x801, 20) + bytes(range(20))
    path.with_name(path.name.replace("images-idx3", "labels-idx1")).write_bytes(labels)
    open_idx(str(path), Path).read(0)


def _read_database(records: RecordSource) -> None:
    for index in range(min(len(records), 12)):
        records.read(index)


def _read_lmdb(path: Path) -> None:
    from ..data.lmdb import LmdbRecords

    _read_database(LmdbRecords(path))


def _read_leveldb(path: Path) -> None:
    from ..data.leveldb import LevelDbRecords

    _read_database(LevelDbRecords(path))


def _read_image(path: Path) -> None:
    from ..data.image_file import decode_image, decode_on_white

    for color in (True, False):
        decode_image(path.read_bytes(), str(path), color)
    decode_on_white(path.read_bytes(), str(path), True, (8, 8))


def _read_list(path: Path) -> None:
    from ..data.image_list import ImageRecords, read_list

    records = ImageRecords(read_list(path), path)
    for index in range(min(len(records), 3)):
        records.read(index)


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


def _read_log(path: Path) -> None:
    from ..cli import parse_log, plot_training_log

    run_command(parse_log.main, [str(path), str(path.parent)])
    run_command(plot_training_log.main, ["6", str(path.with_name("out.png")), str(path)])

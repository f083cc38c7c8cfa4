"""Small good files of each kind, to be damaged."""

from __future__ import annotations

import gzip
import itertools
import struct
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core import examples

if TYPE_CHECKING:
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


CHECKS = {"weights": 7}


def write_text(folder: Path, name: str, content: str) -> Path:
    """Write a text file and return its path."""
    path = folder / name
    path.write_text(content)
    return path


def nets(folder: Path) -> Iterable[Path]:
    """Return a small net and the examples' nets."""
    found = [p for p in example_files() if "solver" not in p.stem and p.parent.name != "article"]
    return [write_text(folder, "small.prototxt", NET), *found]


def solvers(folder: Path) -> Iterable[Path]:
    """Return a distillation solver, many times, and the examples' solvers."""
    net = write_text(folder, "small.prototxt", NET)
    (trained,) = weights(folder)
    loss = 'layer { name: "kd" type: "DistillingLoss" bottom: "ip" bottom: "teacher/ip" top: "kd" }'
    distiller = write_text(folder, "distiller.prototxt", loss)
    settings = (
        f'net: "{net}"\nbase_lr: 0.1\nlr_policy: "step"\nstepsize: 5\ngamma: 0.1\nmax_iter: 10\n'
        'momentum: 0.9\nsnapshot_prefix: "s"\ntype: "SGD"\ndisplay: 2\n'
    )
    teacher = (
        f'teacher {{ name: "teacher" net: "{net}" weights: "{trained}" }}\n'
        f'distiller_net: "{distiller}"\n'
    )
    own = write_text(folder, "kd_solver.prototxt", settings + teacher)
    return [*[own] * 40, *(p for p in example_files() if "solver" in p.stem)]


def example_files() -> list[Path]:
    """Return all prototxt files of the examples."""
    return sorted(examples.folder("mnist").parent.resolve().glob("*/*.prototxt"))


def net() -> Net:
    """Build the small net."""
    from ..net import Net
    from ..proto import caffe_pb2 as pb
    from ..proto import text

    return Net(text.parse(NET, pb.NetParameter()), pb.TEST)


def param_and_blobs() -> tuple[Any, dict[str, list[np.ndarray]]]:
    """Return the small net and weights for it."""
    from ..proto import caffe_pb2 as pb
    from ..proto import text

    draw = np.random.default_rng(0)
    shapes = {"conv": [(2, 1, 3, 3), (2,)], "ip": [(3, 18), (3,)]}
    blobs = {
        name: [draw.standard_normal(s).astype(np.float32) for s in of]
        for name, of in shapes.items()
    }
    return text.parse(NET, pb.NetParameter()), blobs


def weights(folder: Path) -> Iterable[Path]:
    """Write a caffemodel."""
    from ..proto.binary import write_weights

    write_weights(folder / "a.caffemodel", *param_and_blobs())
    return [folder / "a.caffemodel"]


def weights_h5(folder: Path) -> Iterable[Path]:
    """Write an HDF5 caffemodel, uncompressed and compressed."""
    import h5py

    from ..proto.binary import write_weights_hdf5

    write_weights_hdf5(folder / "a.caffemodel.h5", *param_and_blobs())
    with h5py.File(folder / "b.caffemodel.h5", "w") as file:  # compressed
        for name, blobs in param_and_blobs()[1].items():
            for i, blob in enumerate(blobs):
                file.create_dataset(f"data/{name}/{i}", data=blob, compression=4, shuffle=True)
    return [folder / "a.caffemodel.h5", folder / "b.caffemodel.h5"]


def state(path: Path) -> Iterable[Path]:
    """Write a solver state in the format of the path's suffix."""
    from ..proto.binary import SolverState, write_solver_state

    history = list(itertools.chain(*param_and_blobs()[1].values()))
    write_solver_state(path, SolverState(7, "a_iter_7.caffemodel", history, 1))
    return [path]


def states(folder: Path) -> Iterable[Path]:
    """Write a solver state."""
    return state(folder / "a.solverstate")


def states_h5(folder: Path) -> Iterable[Path]:
    """Write an HDF5 solver state."""
    return state(folder / "a.solverstate.h5")


def rows(folder: Path) -> Iterable[Path]:
    """Write HDF5 data, uncompressed and compressed."""
    import h5py

    draw = np.random.default_rng(0)
    for name, options in (("a.h5", {}), ("b.h5", {"compression": 9, "shuffle": True})):
        with h5py.File(folder / name, "w") as file:
            data = draw.standard_normal((20, 3, 4)).astype(np.float32)
            file.create_dataset("data", data=data, **options)
            file.create_dataset("label", data=np.arange(20) % 3, **options)
    return [folder / "a.h5", folder / "b.h5"]


def recordings(folder: Path) -> Iterable[Path]:
    """Write a recording, and a .npz that is not one."""
    from ..verify.recording import write_recording

    draw = np.random.default_rng(0)
    values = {"in/data": draw.standard_normal((2, 1, 6, 6)), "out/prob": np.zeros((2, 3))}
    write_recording(folder / "a.npz", values)
    np.savez(folder / "b.npz", x=np.arange(5), y=values["in/data"])
    return [folder / "a.npz", folder / "b.npz"]


def idx(folder: Path) -> Iterable[Path]:
    """Write IDX files, uncompressed and gzipped."""
    images = struct.pack(">IIII", 0x803, 20, 6, 6) + bytes(range(180)) * 4
    labels = struct.pack(">II", 0x801, 20) + bytes(range(20))
    (folder / "a-images-idx3-ubyte").write_bytes(images)
    (folder / "b-images-idx3-ubyte").write_bytes(gzip.compress(images, mtime=0))
    for name in "ab":
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(labels)
    return [folder / "a-images-idx3-ubyte", folder / "b-images-idx3-ubyte"]


def datum(label: int) -> bytes:
    """Return a serialized Datum."""
    from ..proto import caffe_pb2 as pb

    datum = pb.Datum(channels=1, height=6, width=6, data=bytes([label]) * 36, label=label)
    if label % 3 == 2:
        datum = pb.Datum(channels=1, height=2, width=1, float_data=[0.5, label], label=label)
    return bytes(datum.SerializeToString())


def lmdbs(folder: Path) -> Iterable[Path]:
    """Write an LMDB."""
    from ..data.backends.lmdb import write_lmdb

    write_lmdb(folder / "lmdb", ((b"%08d" % i, datum(i)) for i in range(120)))
    return [folder / "lmdb"]


def images(folder: Path) -> Iterable[Path]:
    """Write images of each format and colour mode."""
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    made = []
    for name, converted in (
        ("rgb", image),
        ("grey", image.convert("L")),
        ("p", image.convert("P")),
    ):
        for ending in ("png", "jpg", "bmp", "tiff", "webp", "gif"):
            if (name, ending) != ("p", "jpg"):
                path = folder / f"{name}.{ending}"
                converted.save(path)
                made.append(path)
    return made


def lists(data: Path) -> Callable[[Path], Iterable[Path]]:
    """Return a function that writes an image list; recorded images are in ``data``."""

    def make(folder: Path) -> Iterable[Path]:
        made = [p for p in images(folder) if p.suffix in (".png", ".jpg")]
        lines = "".join(f"{path} {label}\n" for label, path in enumerate(made))
        return [
            write_text(folder, "list.txt", lines),
            *([data / "list.txt"] if data.is_dir() else []),
        ]

    return make


def windows(folder: Path) -> Iterable[Path]:
    """Write a window file."""
    content = "".join(
        f"# {i}\nimage{i}.jpg\n3\n20\n24\n3\n1 0.9 1 2 10 12\n2 0.1 0 0 5 5\n0 0.0 3 3 9 9\n"
        for i in range(5)
    )
    return [write_text(folder, "windows.txt", content)]


def means(folder: Path) -> Iterable[Path]:
    """Write a mean image."""
    from ..proto.binary import write_blob

    write_blob(folder / "mean.binaryproto", np.full((1, 3, 5, 5), 100.5, np.float32))
    return [folder / "mean.binaryproto"]


def onnx(folder: Path) -> Iterable[Path]:
    """Write an ONNX model."""
    from ..export.onnx import to_onnx

    to_onnx(net(), folder / "a.onnx")
    return [folder / "a.onnx"]


def logs(folder: Path) -> Iterable[Path]:
    """Write a training log."""
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
    return [write_text(folder, "a.log", content)]


def resumes(folder: Path) -> Iterable[Path]:
    """Write a .resume."""
    from ..solver import resume

    resume.write(folder / "a.resume", CHECKS, [net()], [1.0, 0.5], {})
    return [folder / "a.resume"]


def arrays_of_resumes(folder: Path) -> Iterable[Path]:
    """Return the arrays of a .resume as separate files."""
    (good,) = resumes(folder)
    with zipfile.ZipFile(good) as archive:
        return [Path(archive.extract(name, folder)) for name in archive.namelist()]


def arrays_of_recordings(folder: Path) -> Iterable[Path]:
    """Write NumPy arrays as they are in a recording."""
    np.save(folder / "a.npy", np.arange(12.0).reshape(3, 4))
    np.save(folder / "b.npy", np.asfortranarray(np.eye(3, dtype=np.float16)))
    return [folder / "a.npy", folder / "b.npy"]


def plain_idx(folder: Path) -> Iterable[Path]:
    """Write the IDX files and return the uncompressed one."""
    return list(idx(folder))[:1]

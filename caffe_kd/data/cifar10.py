"""CIFAR-10 as an LMDB for training, one for testing, and the mean image.

Images are uint8 [3, 32, 32], red, green and blue, as Caffe's convert_cifar_data stores them.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..core.errors import DataError
from ..proto import caffe_pb2
from .backends.lmdb import LmdbSamples, write_lmdb
from .download import fetch
from .image_file import decode_image
from .mean_image import mean_of, write_mean
from .mnist import small_digits
from .stand_in import CIFAR10_JPEG, COLORED_DIGITS, Origin, is_stand_in, mark, origin_of

URLS = ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",)
SEARCH_DIRS = (Path("../shared/data/cifar10"),)
CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()  # labels 0 to 9
TRAIN, TEST, MEAN = "cifar10_train_lmdb", "cifar10_test_lmdb", "mean.binaryproto"
COUNTS = {TRAIN: 50_000, TEST: 10_000}
STAND_IN_COUNTS = {TRAIN: 1437, TEST: 360}

ARCHIVE = "cifar-10-binary.tar.gz"
_ARCHIVE_BYTES = 170_052_171
_ARCHIVE_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
_BATCHES = {TRAIN: [f"data_batch_{n}.bin" for n in range(1, 6)], TEST: ["test_batch.bin"]}
_BATCH_IMAGES = 10_000
_ZIPS = {TRAIN: "train.zip", TEST: "test.zip"}
_JPEG = re.compile(r"(?P<label>[a-z]+)/\d+\.jpg")
_MOST_JPEG_BYTES = 1 << 16
_SHAPE = (3, 32, 32)
_ORDER_SEED = 0  # of the shuffle of the JPEG files, which lie class by class

Samples = Iterator[tuple[np.ndarray, int]]
"""Images, uint8 [3, 32, 32], and their labels."""


@dataclass(frozen=True)
class Cifar10:
    """What was found or made: the kind of the data, and the folder of its three files."""

    kind: str
    folder: Path


@dataclass(frozen=True)
class _Source:
    """Where samples come from.

    Attributes:
        kind: what it is.
        name: its name for messages.
        origin: what its databases have to say beside their names.
        counts: how many samples there are of each database.
        samples: returns those of a database, by its name.
    """

    kind: str
    name: str
    origin: Origin | None
    counts: dict[str, int]
    samples: Callable[[str], Samples]


def get_cifar10(
    out_dir: Path,
    search_dirs: Sequence[Path] = SEARCH_DIRS,
    allow_download: bool = True,
    say: Callable[[str], None] = print,
    urls: Sequence[str] = URLS,
) -> Cifar10:
    """Write CIFAR-10 as two databases and a mean image, unless they are there.

    ``out_dir`` and ``search_dirs`` are searched for the archive of the binary version, then for
    JPEG files in train.zip and test.zip; then the archive is downloaded to ``out_dir``. Where none
    of this succeeds, the small digits of scikit-learn in colour take its place, until there is a
    run that finds CIFAR-10.

    Args:
        out_dir: where the databases go.
        search_dirs: further folders to look in, which are only read.
        allow_download: whether to try the network.
        say: is called with each progress message.
        urls: addresses of the archive, tried in turn.

    Raises:
        CaffeKDError: the files cannot be written, other data of their names is in ``out_dir``, or
            scikit-learn is missing.
    """
    if _is_complete(out_dir, COUNTS) and not _holds_stand_in(out_dir):
        say(f"CIFAR-10 is in {out_dir} already")
        return Cifar10(_kind_of(out_dir), out_dir)
    _check_holds_no_others(out_dir)
    source = _find(list(dict.fromkeys([out_dir, *search_dirs])), say)
    if source is None and allow_download:
        source = _download(urls, out_dir, say)
    if source is None:
        source = _small_digits()
        if _is_complete(out_dir, source.counts):
            say(f"No CIFAR-10 found. What is in {out_dir} is {COLORED_DIGITS.what}")
            return Cifar10(source.kind, out_dir)
        say(
            f"No CIFAR-10 found{'' if allow_download else ', and downloading is off'}. These are "
            f"{COLORED_DIGITS.what}: figures measured on them are not CIFAR-10's"
        )
    _write(source, out_dir, say)
    return Cifar10(source.kind, out_dir)


def _kind_of(folder: Path) -> str:
    return "CIFAR-10 from JPEG" if origin_of(folder / TRAIN) == CIFAR10_JPEG else "CIFAR-10"


def _is_complete(folder: Path, counts: dict[str, int]) -> bool:
    try:
        return (folder / MEAN).is_file() and all(
            len(LmdbSamples(folder / name)) == count for name, count in counts.items()
        )
    except DataError:
        return False


def _holds_stand_in(folder: Path) -> bool:
    return any(is_stand_in(folder / name) for name in (TRAIN, TEST))


def _check_holds_no_others(folder: Path) -> None:
    """Raise DataError if a database of a folder holds another number of samples, unmarked."""
    for name, count in COUNTS.items():
        path = folder / name
        if not path.exists() or is_stand_in(path):
            continue
        try:
            found = len(LmdbSamples(path))
        except DataError:
            continue  # damaged
        if found != count:
            raise DataError(
                f"holds other data, {found} samples, which would be replaced: move it away, or "
                "give another folder with -dir",
                str(path),
            )


def _find(folders: Sequence[Path], say: Callable[[str], None]) -> _Source | None:
    """Return the first archive of the folders, else the first pair of zip files."""
    for folder in folders:
        if (archive := folder / ARCHIVE).is_file():
            try:
                _check_archive(archive)
                return _binary(archive)
            except DataError as error:
                say(f"{folder} is not used: {error}")
    for folder in folders:
        if all((folder / name).is_file() for name in _ZIPS.values()):
            try:
                return _jpegs(folder)
            except DataError as error:
                say(f"{folder} is not used: {error}")
    return None


def _download(urls: Sequence[str], folder: Path, say: Callable[[str], None]) -> _Source | None:
    for url in urls:
        say(f"Downloading CIFAR-10 from {url}")
        try:
            fetch(url, folder / ARCHIVE, _ARCHIVE_BYTES, _check_archive)
            return _binary(folder / ARCHIVE)
        except DataError as error:
            say(f"The download failed: {error}")
    return None


# ---- what there may be to read


def _check_archive(path: Path) -> None:
    """Raise DataError unless a file is the archive of the binary version."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != _ARCHIVE_SHA256:
        raise DataError(
            f"not the binary version of CIFAR-10. Received: SHA-256 {digest.hexdigest()[:12]}…. "
            f"Expected: {_ARCHIVE_SHA256[:12]}….",
            str(path),
        )


def _binary(archive: Path) -> _Source:
    return _Source("CIFAR-10", str(archive), None, COUNTS, partial(_in_archive, archive))


def _in_archive(archive: Path, name: str) -> Samples:
    """Read batches of a label and 3072 values each, one after another."""
    with tarfile.open(archive) as tar:
        for batch in _BATCHES[name]:
            member = tar.extractfile(f"cifar-10-batches-bin/{batch}")
            assert member is not None  # the archive's checksum is right
            rows = np.frombuffer(member.read(), np.uint8).reshape(_BATCH_IMAGES, -1)
            for row in rows:
                yield row[1:].reshape(_SHAPE), int(row[0])


def _jpegs(folder: Path) -> _Source:
    """Return the JPEG files of a folder's two zip files, whose names are checked."""
    orders = {name: _shuffled(folder / zip_name) for name, zip_name in _ZIPS.items()}

    def samples(name: str) -> Samples:
        return _in_zip(folder / _ZIPS[name], orders[name])

    return _Source("CIFAR-10 from JPEG", str(folder), CIFAR10_JPEG, COUNTS, samples)


def _shuffled(path: Path) -> list[zipfile.ZipInfo]:
    """Return the files of a zip file in the order in which they are stored: the same each time."""
    wanted = COUNTS[TRAIN if path.name == _ZIPS[TRAIN] else TEST]
    try:
        with zipfile.ZipFile(path) as archive:
            files = sorted(archive.infolist(), key=lambda info: info.filename)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"cannot be read: {error}", str(path)) from error
    counts = dict.fromkeys(CLASSES, 0)
    for info in files:
        found = _JPEG.fullmatch(info.filename)
        if not found or found["label"] not in counts or info.file_size > _MOST_JPEG_BYTES:
            raise DataError(f"holds {info.filename!r}, no JPEG of a class of CIFAR-10", str(path))
        counts[found["label"]] += 1
    if set(counts.values()) != {wanted // len(CLASSES)}:
        raise DataError(
            f"has not {wanted // len(CLASSES)} images of each class. Received: {counts}", str(path)
        )
    # RandomState, whose sequence never changes between versions of NumPy.
    order = np.random.RandomState(_ORDER_SEED).permutation(len(files))
    return [files[index] for index in order]


def _in_zip(path: Path, files: Sequence[zipfile.ZipInfo]) -> Samples:
    with zipfile.ZipFile(path) as archive:
        for info in files:
            where = f"{path}/{info.filename}"
            try:
                data = archive.read(info)
            except (OSError, zipfile.BadZipFile) as error:
                raise DataError(f"cannot be read: {error}", where) from error
            image = decode_image(data, where, color=True)[::-1]  # from blue, green, red
            if image.shape != _SHAPE:
                raise DataError(f"has the shape {image.shape}. Expected: {_SHAPE}", where)
            yield image, CLASSES.index(info.filename.partition("/")[0])


def _small_digits() -> _Source:
    return _Source("digits", "scikit-learn", COLORED_DIGITS, STAND_IN_COUNTS, _in_color)


def _in_color(name: str) -> Samples:
    """Return small digits, each of a bright colour on a dark one."""
    images, labels, train, test = small_digits()
    colors = np.random.RandomState(_ORDER_SEED)
    paper, ink = colors.uniform(0, 90, (len(images), 3)), colors.uniform(130, 256, (len(images), 3))
    edge = (_SHAPE[1] - images.shape[1]) // 2
    for index in train if name == TRAIN else test:
        share = np.pad(images[index], edge)[None] / 255
        image = paper[index][:, None, None] * (1 - share) + ink[index][:, None, None] * share
        yield image.astype(np.uint8), int(labels[index])


# ---- writing


def _write(source: _Source, folder: Path, say: Callable[[str], None]) -> None:
    """Write the two databases and the mean image, which says that they are complete."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    say(f"Reading {source.kind} from {source.name}")
    (folder / MEAN).unlink(missing_ok=True)
    written = []
    for name, count in source.counts.items():
        with tqdm(total=count, unit="image", desc=name, disable=None) as bar:
            write_lmdb(folder / name, _messages(source.samples(name), bar.update), overwrite=True)
        written.append(folder / name)
        if source.origin is not None:
            mark(written, source.origin)
    for other in {CIFAR10_JPEG, COLORED_DIGITS} - {source.origin}:
        (folder / other.marker).unlink(missing_ok=True)
    write_mean(folder / MEAN, mean_of(LmdbSamples(folder / TRAIN)))
    for name, count in source.counts.items():
        say(f"{folder / name}: {count} images")
    if source.origin is CIFAR10_JPEG:
        say(f"note: this is {CIFAR10_JPEG.what}")


def _messages(samples: Samples, seen: Callable[[int], object]) -> Iterator[tuple[bytes, bytes]]:
    """Return keys and values as convert_cifar_data writes them."""
    channels, height, width = _SHAPE
    for index, (image, label) in enumerate(samples):
        datum = caffe_pb2.Datum(
            channels=channels, height=height, width=width, data=image.tobytes(), label=label
        )
        yield b"%05d" % index, datum.SerializeToString()
        seen(1)

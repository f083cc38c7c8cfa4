"""The handwritten digits: MNIST where available, else the small digits of scikit-learn."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ..core.errors import CaffeKDError, DataError
from ..core.files import replacing
from .backends.idx import IMAGES, LABELS, locate, read_idx, write_idx
from .download import fetch
from .stand_in import MARKER, WHAT, is_stand_in, mark

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
SEARCH_DIRS = (Path("data/mnist"), Path("../shared/data/mnist"))

_TEST_DIGITS = 360  # of the 1797 small digits
_SIDE, _DIGIT_SIDE = 28, 20  # as in MNIST: the digit fills 20 x 20 of 28 x 28
_OTHER_FIGURES = f"These are {WHAT}: figures measured on them are not MNIST's."


@dataclass(frozen=True)
class _File:
    """One of the four files: its name, kind, and the SHA-256 of its values without header."""

    name: str
    magic: int
    gzip_bytes: int
    digest: str


FILES = (
    _File(
        "train-images-idx3-ubyte",
        IMAGES,
        9912422,
        "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
    ),
    _File(
        "train-labels-idx1-ubyte",
        LABELS,
        28881,
        "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
    ),
    _File(
        "t10k-images-idx3-ubyte",
        IMAGES,
        1648877,
        "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
    ),
    _File(
        "t10k-labels-idx1-ubyte",
        LABELS,
        4542,
        "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
    ),
)


@dataclass(frozen=True)
class Digits:
    """Which digits were found, and the folder of their four IDX files (each plain or ``.gz``)."""

    kind: Literal["MNIST", "digits"]
    folder: Path


def get_mnist(
    out_dir: Path,
    search_dirs: Sequence[Path] = SEARCH_DIRS,
    allow_download: bool = True,
    say: Callable[[str], None] = print,
    mirrors: Sequence[str] = MIRRORS,
) -> Digits:
    """Find, download or make the four files of handwritten digits.

    MNIST is looked for in ``out_dir`` and ``search_dirs``, then downloaded to ``out_dir``. Where
    neither succeeds, the small digits of scikit-learn are written to ``out_dir``. Files
    are used only if their values are MNIST's, by checksum.

    Args:
        out_dir: where new files go.
        search_dirs: further folders to look in, which are only read.
        allow_download: whether to try the network.
        say: is called with each progress message.
        mirrors: addresses of folders with the four ``.gz`` files, tried in turn.

    Raises:
        CaffeKDError: the files cannot be written, other data of their names is in ``out_dir``, or
            scikit-learn is missing.
    """
    for folder in dict.fromkeys([out_dir, *search_dirs]):
        if _is_complete(folder, say):
            say(f"MNIST found in {folder}")
            return Digits("MNIST", folder)
    _check_holds_no_others(out_dir)
    if allow_download and any(_download(mirror, out_dir, say) for mirror in mirrors):
        (out_dir / MARKER).unlink(missing_ok=True)
        say(f"MNIST downloaded to {out_dir}")
        return Digits("MNIST", out_dir)
    _make_digits(out_dir)
    say(
        f"No MNIST found{'' if allow_download else ', and downloading is off'}. "
        f"{_OTHER_FIGURES} They are in {out_dir}"
    )
    return Digits("digits", out_dir)


def _check_holds_no_others(folder: Path) -> None:
    """Raise DataError if a folder has four complete files of MNIST's names with other values."""
    if _has_digits(folder):
        return
    try:
        for file in FILES:
            read_idx(locate(str(folder / file.name)), file.magic)
    except DataError:
        return  # one is missing or damaged
    raise DataError(
        "holds other data under the names of MNIST's files, which would be replaced: move it away, "
        "or give another folder with -dir",
        str(folder),
    )


def copy_to(digits: Digits, folder: Path) -> Digits:
    """Copy digits that were found elsewhere into ``folder``, where the example nets look."""
    if digits.folder.resolve() == folder.resolve():
        return digits
    for file in FILES:
        source = locate(str(digits.folder / file.name))
        with replacing(folder / source.name) as temporary:
            shutil.copyfile(source, temporary)
    return Digits(digits.kind, folder)


def _is_complete(folder: Path, say: Callable[[str], None]) -> bool:
    """Return whether a folder has all of MNIST; report it where it has only some of it."""
    found = [path for file in FILES for path in _candidates(folder, file) if path.is_file()]
    others = [path for path in found if not is_stand_in(path)]
    try:
        for file in FILES:
            _check(folder, file)
    except DataError as error:
        if others:
            say(f"{folder} is not used: {error}")
        return False
    return True


def _candidates(folder: Path, file: _File) -> tuple[Path, Path]:
    return folder / file.name, folder / (file.name + ".gz")


def _check(folder: Path, file: _File) -> None:
    """Raise DataError unless a folder holds this file of MNIST, plain or compressed."""
    _check_values(locate(str(folder / file.name)), file)


def _check_values(path: Path, file: _File) -> None:
    digest = hashlib.sha256(read_idx(path, file.magic).tobytes()).hexdigest()
    if digest != file.digest:
        raise DataError(
            f"an IDX file, but not MNIST's. Received: SHA-256 {digest[:12]}… of its values. "
            f"Expected: {file.digest[:12]}….",
            str(path),
        )


def _download(mirror: str, out_dir: Path, say: Callable[[str], None]) -> bool:
    """Fetch from one mirror the files that are still missing; return whether all are there."""
    say(f"Downloading MNIST from {mirror}")
    for file in FILES:
        try:
            _check(out_dir, file)
        except DataError:
            try:
                _fetch(f"{mirror}{file.name}.gz", out_dir, file)
            except DataError as error:
                say(f"The download failed: {error}")
                return False
    return True


def _fetch(url: str, out_dir: Path, file: _File) -> None:
    """Download one file; it gets its name only once its checksum is right."""
    plain, packed = _candidates(out_dir, file)
    fetch(url, packed, file.gzip_bytes, lambda path: _check_values(path, file))
    plain.unlink(missing_ok=True)  # it is damaged, and would be found first


def _make_digits(folder: Path) -> None:
    """Write scikit-learn's digits as the four IDX files, and mark them, unless they are there."""
    paths = [folder / file.name for file in FILES]
    if _has_digits(folder):
        mark(paths)
        return
    images, labels, train, test = small_digits()
    for file, values, chosen in zip(
        FILES, (images, labels, images, labels), (train, train, test, test), strict=True
    ):
        write_idx(folder / file.name, values[chosen])
    mark(paths)


def small_digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return scikit-learn's digits, uint8 [N, 28, 28], labels, and which train and which test.

    Raises:
        CaffeKDError: scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise CaffeKDError(
            "the data is not found, and the small digits in its place need scikit-learn: "
            "pip install scikit-learn"
        ) from error
    small = load_digits()
    images = np.stack([_like_mnist(image) for image in small.images])
    labels = small.target.astype(np.uint8)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=_TEST_DIGITS, stratify=labels, random_state=0
    )
    return images, labels, train, test


def _has_digits(folder: Path) -> bool:
    try:
        counts = [len(read_idx(folder / file.name, file.magic)) for file in FILES]
    except DataError:
        return False
    return counts[0] == counts[1] and counts[2] == counts[3] == _TEST_DIGITS


def _like_mnist(image: np.ndarray) -> np.ndarray:
    """Resize 8 x 8 values of 0 to 16 to uint8 28 x 28, the digit in the middle 20 x 20."""
    from PIL import Image

    small = Image.fromarray((image * (255 / 16)).round().astype(np.uint8))
    digit = small.resize((_DIGIT_SIDE, _DIGIT_SIDE), Image.Resampling.BICUBIC)
    return np.pad(np.asarray(digit), (_SIDE - _DIGIT_SIDE) // 2)

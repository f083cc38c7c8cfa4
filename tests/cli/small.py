"""A folder with small digits and the MNIST examples made to train on them in a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from caffe_kd.data.backends.idx import write_idx

ROOT = Path(__file__).parents[2]
SAMPLES = {"train": 96, "t10k": 40}


def write_digits(folder: Path) -> None:
    """Write ten noisy patterns of 28 x 28 pixels under MNIST's names."""
    draw = np.random.default_rng(0)
    patterns = np.kron(draw.integers(0, 2, (10, 7, 7)), np.ones((4, 4), int))
    for name, count in SAMPLES.items():
        labels = np.arange(count, dtype=np.uint8) % 10
        noise = draw.integers(0, 100, (count, 28, 28))
        write_idx(
            folder / f"{name}-images-idx3-ubyte", (patterns[labels] * 120 + noise).astype(np.uint8)
        )
        write_idx(folder / f"{name}-labels-idx1-ubyte", labels)


def write_examples(folder: Path, iterations: int = 12) -> None:
    """Copy prototxt/mnist into ``folder``, with these digits, this output and few iterations."""
    write_digits(folder)
    changes = {
        "data/mnist/": f"{folder.as_posix()}/",
        "output/mnist/": f"{folder.as_posix()}/",
        "max_iter: 9380": f"max_iter: {iterations}",
        "max_iter: 18760": f"max_iter: {iterations}",
        "iter_9380": f"iter_{iterations}",
        "test_iter: 100 ": "test_iter: 2 ",
        "test_iter: 100\n": "test_iter: 2\n",
        "test_interval: 938": "test_interval: 6",
        "display: 100": "display: 3",
        "batch_size: 100": "batch_size: 20",
        "batch_size: 64": "batch_size: 16",
    }
    for path in (ROOT / "prototxt" / "mnist").glob("*.prototxt"):
        content = path.read_text(encoding="utf-8")
        for old, new in changes.items():
            content = content.replace(old, new)
        (folder / path.name).write_text(content, encoding="utf-8")

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from caffe_kd.data.mnist import get_mnist


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the small digits."""
    folder = tmp_path_factory.mktemp("digits")
    get_mnist(folder, search_dirs=(), allow_download=False, say=lambda _: None)
    return folder


@pytest.fixture(autouse=True, scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A working folder from which no MNIST is found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        yield

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import caffe_kd as caffe
from tests.pycaffe.nets import BRANCHES, SMALL, fill, write
from tests.solver.conftest import _one_thread

__all__ = ["_one_thread"]


@pytest.fixture
def small(tmp_path: Path) -> caffe.Net:
    caffe.set_random_seed(1)
    net = caffe.Net(write(tmp_path, SMALL), caffe.TRAIN)
    net.blobs["label"].data[...] = np.random.default_rng(0).integers(13, size=(5, 1, 1, 1))
    return net


@pytest.fixture
def branches(tmp_path: Path) -> caffe.Net:
    caffe.set_random_seed(1)
    net = caffe.Net(write(tmp_path, BRANCHES), caffe.TRAIN)
    fill(net)
    return net

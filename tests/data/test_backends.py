"""A backend is one file: what finds it, names it and opens it follows from the file."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import caffe_kd
from caffe_kd.data import backends
from caffe_kd.proto import caffe_pb2 as pb

RAMP = """
import numpy as np
from ..source import MemorySamples

def open_samples(source, folder_lookup, force_color):
    count = int(source)
    return MemorySamples(np.full((count, 1, 2, 2), 7, np.uint8), np.arange(count), source)

def recognizes(path):
    return path.name.isdigit()
"""
TRAIN = """
from caffe_kd.data.backends import names, open_source
from caffe_kd.net import Net
from caffe_kd.proto import caffe_pb2 as pb, text
assert "RAMP" in names(), names()
layer = 'layer { name: "data" type: "Data" top: "data" top: "label" '
param = 'data_param { source: "5" %s batch_size: 3 } }'
net = text.parse(layer + param % "backend: RAMP", pb.NetParameter())
assert "backend: RAMP" in text.to_text(net)
assert pb.NetParameter.FromString(net.SerializeToString()) == net
built = Net(net, pb.TRAIN)
built()
assert built.blobs["label"].tolist() == [0, 1, 2] and built.blobs["data"].unique().tolist() == [7]
try:
    Net(text.parse(layer + param % "", pb.NetParameter()), pb.TRAIN)
except Exception as error:
    assert "It looks like RAMP; write backend: RAMP" in str(error), error
else:
    raise AssertionError("a net without a backend was built")
from caffe_kd.cli.compute_image_mean import main
assert main(["5"]) == main(["-backend", "ramp", "5"]) == 0
"""


def test_new_backend_is_one_file(tmp_path: Path) -> None:
    package = tmp_path / "caffe_kd"
    shutil.copytree(
        Path(caffe_kd.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    (package / "data" / "backends" / "ramp.py").write_text(RAMP)
    words = [sys.executable, "-c", TRAIN]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_schema_lists_each_backend() -> None:
    assert sorted(pb.DataParameter.DB.keys()) == backends.names()

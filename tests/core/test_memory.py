from __future__ import annotations

from pathlib import Path

import pytest

from caffe_kd.core import memory
from caffe_kd.core.errors import NetError
from caffe_kd.layers import base
from caffe_kd.net import Net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text

HIDDEN = """
layer {{ name: "{0}" type: "InnerProduct" bottom: "d" top: "{0}"
  inner_product_param {{ num_output: 1000 bias_term: false }} }}"""
DUMMY = 'layer { name: "d" type: "DummyData" top: "d" dummy_data_param { shape { %s } } }'


def build(prototxt: str) -> Net:
    return Net(text.parse(prototxt, pb.NetParameter()), pb.TRAIN)


def test_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = memory.machine_bytes.__wrapped__()
    if whole is None:
        pytest.skip("this system does not report its memory")
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "limit").write_text("123456\n")
    monkeypatch.setattr(memory, "CONTAINER_LIMITS", (tmp_path / "max", tmp_path / "absent"))
    assert memory.machine_bytes.__wrapped__() >= whole
    monkeypatch.setattr(memory, "CONTAINER_LIMITS", (tmp_path / "max", tmp_path / "limit"))
    assert memory.machine_bytes.__wrapped__() == 123456


def test_blob_beyond_the_memory_is_reported_before_it_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(base, "machine_bytes", lambda: 3 << 30)
    with pytest.raises(NetError, match=r"it takes 6\.0 GB, and this machine has 3\.0 GB"):
        build(DUMMY % "dim: 1610612736")


def test_parameters_beyond_the_memory_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "machine_bytes", lambda: 10_000_000)
    data = DUMMY % "dim: 1 dim: 1000"
    build(data + "".join(HIDDEN.format(f"ip{i}") for i in range(2)))  # 4 MB each
    with pytest.raises(NetError, match="layer 'ip2'.*with parameter blob 0 the net is too large"):
        build(data + "".join(HIDDEN.format(f"ip{i}") for i in range(3)))


def test_net_without_layers_is_refused() -> None:
    with pytest.raises(NetError, match="net 'N' has no layers"):
        build('name: "N"')

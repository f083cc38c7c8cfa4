from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_kd.core.errors import SolverError
from tests.solver.training import SETTINGS, STUDENT, make_solver, write_rows

# Scaling in float32: one rounding of each weight, so the norm is right to some units in the last
# place; torch divides by the norm + 1e-7.
CLOSE = 1e-5

CONVOLUTION = """
layer { name: "data" type: "HDF5Data" top: "data" top: "label"
  hdf5_data_param { source: "rows.txt" batch_size: 4 } }
layer { name: "image" type: "Reshape" bottom: "data" top: "image"
  reshape_param { shape { dim: 0 dim: 1 dim: 2 dim: 2 } } }
layer { name: "conv" type: "Convolution" bottom: "image" top: "conv"
  convolution_param { num_output: 5 kernel_size: 2 weight_filler { type: "gaussian" std: 3 }
    bias_filler { type: "constant" value: 9 } } }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 3 transpose: true weight_filler { type: "gaussian" std: 3 } } }
layer { name: "frozen" type: "InnerProduct" bottom: "ip" top: "frozen" param { lr_mult: 0 }
  inner_product_param { num_output: 3 weight_filler { type: "gaussian" std: 3 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "frozen" bottom: "label" top: "loss" }
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path)
    (tmp_path / "net.prototxt").write_text(CONVOLUTION)
    return tmp_path


def blobs(solver) -> dict[str, list[torch.Tensor]]:
    return {
        node.layer.name: [blob.detach().clone() for blob in node.layer.blobs]
        for node in solver.net.nodes
    }


def test_weights_into_each_unit_are_scaled_down_to_the_limit() -> None:
    free, limited = make_solver(), make_solver(SETTINGS + "max_norm: 1.5\n")
    for solver in (free, limited):
        solver.step(1)
    plain, scaled = blobs(free), blobs(limited)
    # By hand, from the update without a limit: filters, and columns where weights are transposed.
    for name, axes in (("conv", (1, 2, 3)), ("ip", (0,))):
        norms = plain[name][0].pow(2).sum(axes, keepdim=True).sqrt()
        assert (norms > 1.5).any()
        expected = plain[name][0] * (1.5 / norms).clamp(max=1)
        torch.testing.assert_close(scaled[name][0], expected, rtol=CLOSE, atol=0)
        assert torch.equal(scaled[name][1], plain[name][1])  # biases, of 9, are not weights
    assert torch.equal(scaled["frozen"][0], plain["frozen"][0])
    assert scaled["frozen"][0].norm(dim=1).max() > 1.5


def test_weights_within_the_limit_keep_their_bits() -> None:
    free, limited = make_solver(), make_solver(SETTINGS + "max_norm: 1000\n")
    for solver in (free, limited):
        solver.step(4)
    for name, (plain, scaled) in {
        k: (blobs(free)[k], blobs(limited)[k]) for k in blobs(free)
    }.items():
        assert all(torch.equal(a, b) for a, b in zip(plain, scaled, strict=True)), name


def test_limit_holds_after_every_update(folder: Path) -> None:
    (folder / "net.prototxt").write_text(STUDENT)
    solver = make_solver(SETTINGS.replace("0.1", "5") + "momentum: 0.9 max_norm: 0.5\n")
    seen = []
    for _ in range(6):
        solver.step(1)
        (weights,) = (node.layer.blobs[0] for node in solver.net.nodes if node.layer.name == "ip")
        seen.append(float(weights.detach().norm(dim=1).max()))
    np.testing.assert_allclose(seen, 0.5, rtol=CLOSE)  # at this rate each update goes beyond it


@pytest.mark.parametrize("limit", ["0", "-2", "nan", "inf"])
def test_limit_that_is_none_is_refused_with_its_line(limit: str) -> None:
    with pytest.raises(SolverError, match=r"solver.prototxt:2: max_norm must be above 0. Received"):
        make_solver(SETTINGS + f"max_norm: {limit}\n")


def test_limit_without_weights_to_limit_is_refused(folder: Path) -> None:
    frozen = STUDENT.replace("param { lr_mult: 1 }", "param { lr_mult: 0 }")
    (folder / "net.prototxt").write_text(frozen)
    with pytest.raises(
        SolverError, match="Convolution and InnerProduct layers, and the net has none"
    ):
        make_solver(SETTINGS + "max_norm: 2\n")

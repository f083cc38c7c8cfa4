"""What doctor and explain_kd say of a training with rounded values."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_kd.analysis.reading import read_target
from caffe_kd.doctor.explain import as_text
from tests.doctor.examining import NET, SOLVER, found, with_layer, write

BATCH_NORM = 'layer { name: "bn" type: "BatchNorm" bottom: "ip" top: "ip" }\n'
BITS = NET.replace('top: "ip"\n', 'top: "ip" quantization_param { bw_params: 4 }\n')


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_normalisation_behind_a_rounded_layer_is_an_error(folder):
    write(folder, net=with_layer(BATCH_NORM), solver=SOLVER + "quantization { }")
    ((severity, what),) = found(folder / "solver.prototxt", "normalised_after_rounding")
    assert severity == "error"
    assert "layer 'bn' (BatchNorm) normalises what the quantised layer 'ip' computes" in what
    for settings in ("", "quantization { bw_params: 32 bw_layer_in: 32 }"):
        write(folder, solver=SOLVER + settings)
        assert not found(folder / "solver.prototxt", "normalised_after_rounding")


def test_bits_without_ranges_are_named_where_nothing_finds_them(folder):
    assert "quantization_param" in BITS
    write(folder, net=BITS, solver=SOLVER)
    for file in ("net.prototxt", "solver.prototxt"):
        ((severity, what),) = found(folder / file, "widths_without_ranges")
        assert (severity, "'ip'" in what) == ("warning", True)
    write(folder, solver=SOLVER + "quantization { }")
    assert not found(folder / "solver.prototxt", "widths_without_ranges")
    write(folder, net=BITS.replace("bw_params: 4", "bw_params: 4 step_params: 0.1"))
    assert not found(folder / "net.prototxt", "widths_without_ranges")


def test_explain_lists_the_layers_by_their_bits(folder):
    write(folder, net=BITS, solver=SOLVER + "quantization { bw_layer_in: 6 }")
    lines = as_text(read_target(folder / "solver.prototxt"))
    assert "quantised: ip: reads 6 bits, weights of 4 bits" in list(lines)

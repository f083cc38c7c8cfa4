"""Nets in plain torch become nets here, with the same outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_kd.cli.from_onnx import main
from caffe_kd.net import load_net
from tests.import_onnx.torch_nets import EXPORTERS, NETS, export, randomized


def outputs_of(stem, x):
    net = load_net(f"{stem}_deploy.prototxt")
    net.load_weights(f"{stem}.caffemodel")
    with torch.no_grad():
        net({net.inputs[0]: x})
    return [net.blobs[name].numpy() for name in net.outputs]


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", NETS)
def test_torch_net_has_the_same_outputs(name, exporter, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    make, shape = NETS[name]
    module = randomized(make())
    export(module, shape, "net.onnx", exporter)
    assert main(["-model", "net.onnx", "-output", "out/own"]) == 0
    assert "agree" in capsys.readouterr().out
    x = torch.randn(shape)
    with torch.no_grad():
        wanted = module(x).numpy()
    (result,) = outputs_of("out/own", x)
    np.testing.assert_allclose(result, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())

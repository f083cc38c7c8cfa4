"""The command that makes a deploy net of a train/test net."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from caffe_kd.cli.make_deploy import main
from caffe_kd.data.backends.idx import write_idx
from caffe_kd.net import load_net

ROOT = Path(__file__).parents[2]

NET = """
name: "small"
layer { name: "digits" type: "Data" top: "data" top: "label"
  data_param { source: "t10k-images-idx3-ubyte" batch_size: 8 backend: IDX } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" param { lr_mult: 2 }
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy"
  include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
NET_OF_2014 = """
name: "small"
layers { name: "digits" type: DATA top: "data" top: "label"
  data_param { source: "t10k-images-idx3-ubyte" batch_size: 8 backend: IDX } }
layers { name: "ip" type: INNER_PRODUCT bottom: "data" top: "ip" blobs_lr: 2 blobs_lr: 2
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layers { name: "loss" type: SOFTMAX_LOSS bottom: "ip" bottom: "label" top: "loss" }
"""
NET_OF_2013 = """
name: "small"
layers { layer { name: "digits" type: "data" source: "t10k-images-idx3-ubyte" batchsize: 8 }
  top: "data" top: "label" }
layers { layer { name: "ip" type: "innerproduct" num_output: 10 blobs_lr: 2
  weight_filler { type: "xavier" } } bottom: "data" top: "ip" }
layers { layer { name: "loss" type: "softmax_loss" } bottom: "ip" bottom: "label" }
"""
DEPLOYED = """name: "small"
layer {
  name: "data"
  type: "Input"
  top: "data"
  input_param {
    shape {
      dim: 1
      dim: 1
      dim: 6
      dim: 5
    }
  }
}
layer {
  name: "ip"
  type: "InnerProduct"
  bottom: "data"
  top: "ip"
  inner_product_param {
    num_output: 10
  }
}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_idx(Path("t10k-images-idx3-ubyte"), np.ones((9, 6, 5), np.uint8))
    write_idx(Path("t10k-labels-idx1-ubyte"), np.ones(9, np.uint8))


@pytest.mark.parametrize("net", [NET, NET_OF_2014])
def test_net_becomes_its_deploy_form(net, capsys):
    Path("net.prototxt").write_text(net)
    assert main(["-model", "net.prototxt"]) == 0
    captured = capsys.readouterr()
    assert captured.out == DEPLOYED
    assert ("deprecated V1LayerParameter" in captured.err) == (net is NET_OF_2014)


def test_net_of_2013_without_its_leveldb_names_the_layer(capsys):
    Path("net.prototxt").write_text(NET_OF_2013)
    assert main(["-model", "net.prototxt"]) == 1
    captured = capsys.readouterr()
    assert "deprecated V0LayerParameter" in captured.err
    assert "error: the shape of the net's input 'data'" in captured.err
    assert "net.prototxt:3: layer 'digits'" in captured.err
    assert captured.out == ""


def test_output_is_a_file_that_loads_in_place_of_the_net(capsys):
    Path("net.prototxt").write_text(NET)
    assert main(["--model=net.prototxt", "--output=out/deploy.prototxt"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "" and "wrote out/deploy.prototxt" in captured.err
    assert Path("out/deploy.prototxt").read_text() == DEPLOYED
    assert load_net("out/deploy.prototxt").shapes["ip"] == (1, 10)


def test_deploy_net_stays_as_it_is(capsys):
    Path("net.prototxt").write_text(DEPLOYED)
    assert main(["-model", "net.prototxt"]) == 0
    assert capsys.readouterr().out == DEPLOYED


def test_field_without_successor_is_an_error(capsys):
    Path("net.prototxt").write_text(
        NET_OF_2013.replace("batchsize: 8", "batchsize: 8 biasterm: true")
    )
    assert main(["-model", "net.prototxt"]) == 1
    error = capsys.readouterr().err
    assert "biasterm" in error and "net.prototxt: has fields without a successor" in error


def test_missing_net_is_named(capsys):
    assert main(["-model", "gone.prototxt"]) == 1
    assert "error: gone.prototxt: no such file" in capsys.readouterr().err


def test_tool_needs_no_torch_for_help(tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", ROOT / "tools" / "make_deploy.py", "-h"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "-model" in done.stdout and " torch" not in done.stderr


ALL_IN_ONE = (
    NET.replace('name: "loss"', 'name: "loss" exclude { stage: "deploy" }')
    + """
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" include { stage: "deploy" } }
"""
)


def test_stage_chooses_layers_and_is_asked_for(capsys):
    Path("net.prototxt").write_text(ALL_IN_ONE)
    assert main(["-model", "net.prototxt"]) == 0
    captured = capsys.readouterr()
    assert "prob" not in captured.out
    assert "note: layers of this net depend on its stage (deploy)" in captured.err
    assert main(["-model", "net.prototxt", "-stage", "deploy"]) == 0
    captured = capsys.readouterr()
    assert 'top: "prob"' in captured.out and captured.err == ""


def test_shape_of_the_input_is_that_given(capsys):
    Path("net.prototxt").write_text(NET.replace("t10k", "gone"))
    assert main(["-model", "net.prototxt"]) == 1
    assert "-input_shape data=1,C,H,W" in capsys.readouterr().err
    for shape in ("data=1,1,6,5", "1,1,6,5", "1,6,5"):
        assert main(["-model", "net.prototxt", "-input_shape", shape]) == 0
        assert capsys.readouterr().out == DEPLOYED
    assert main(["-model", "net.prototxt", "-input_shape", "data=1,x"]) == 2

"""A user's own layers in pycaffe nets, as in Caffe's tests."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import caffe_kd as caffe
from tests.layers.python_nets import user_layers_found, without_caffe
from tests.pycaffe.nets import write

pytestmark = without_caffe

LAYERS = """
import caffe
import numpy as np

class Times(caffe.Layer):
    def setup(self, bottom, top):
        self.factor = float(self.param_str or 10)
    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)
    def forward(self, bottom, top):
        top[0].data[...] = self.factor * bottom[0].data
    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = self.factor * top[0].diff

class Parameter(caffe.Layer):
    def setup(self, bottom, top):
        self.blobs.add_blob(1)
        self.blobs[0].data[0] = 0
    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)
    def forward(self, bottom, top):
        pass
    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[0] = 1

class Offset(caffe.Layer):
    def setup(self, bottom, top):
        self.blobs.add_blob(*bottom[0].shape[1:])
    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)
    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data + self.blobs[0].data
    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[...] += top[0].diff.sum(0)
        if propagate_down[0]:
            bottom[0].diff[...] = top[0].diff

class Phase(caffe.Layer):
    def setup(self, bottom, top):
        pass
    def reshape(self, bottom, top):
        top[0].reshape()
    def forward(self, bottom, top):
        top[0].data[()] = self.phase

class Exploding(caffe.Layer):
    def setup(self, bottom, top):
        raise RuntimeError("boom")

class Boxes(caffe.Layer):
    \"\"\"Data whose shape changes from batch to batch, and is set in forward.\"\"\"
    def set_samples(self, samples):
        self.samples, self.next = samples, 0
    def setup(self, bottom, top):
        top[0].reshape(1, 3)
    def reshape(self, bottom, top):
        pass
    def forward(self, bottom, top):
        batch = self.samples[self.next]
        self.next = (self.next + 1) % len(self.samples)
        top[0].reshape(*batch.shape)
        top[0].data[...] = batch
    def backward(self, top, propagate_down, bottom):
        pass
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "mine.py").write_text(LAYERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLOG_minloglevel", "3")
    yield from user_layers_found(monkeypatch)


def python(name: str, cls: str, bottom: str = "", param_str: str = "", more: str = "") -> str:
    bottoms = f'bottom: "{bottom}"' if bottom else ""
    return (
        f'layer {{ type: "Python" name: "{name}" {bottoms} top: "{name}" {more} python_param {{ '
        f"module: 'mine' layer: '{cls}' param_str: \"{param_str}\" }} }}\n"
    )


DATA = 'input: "data" input_shape { dim: 10 dim: 9 dim: 8 }\n'
CHAIN = python("one", "Times", "data") + python("two", "Times", "one")
CHAIN += python("three", "Times", "two")


def make(folder: Path, layers: str, phase: int = caffe.TRAIN) -> caffe.Net:
    text = f'name: "pythonnet" force_backward: true\n{DATA}{layers}'
    return caffe.Net(write(folder, text), phase)


def test_layers_run_forward(tmp_path: Path) -> None:
    net = make(tmp_path, CHAIN)
    net.blobs["data"].data[...] = 8
    net.forward()
    assert (net.blobs["three"].data == 8000).all()


def test_layers_run_backward(tmp_path: Path) -> None:
    net = make(tmp_path, CHAIN)
    net.blobs["three"].diff[...] = 7
    net.backward()
    assert (net.blobs["data"].diff == 7000).all()


def test_layers_follow_a_new_shape(tmp_path: Path) -> None:
    net = make(tmp_path, CHAIN)
    net.blobs["data"].reshape(4, 4, 4, 4)
    net.blobs["data"].data[...] = 8
    net.forward()
    for blob in net.blobs.values():
        assert blob.data.shape == (4, 4, 4, 4)
    assert (net.blobs["three"].data == 8000).all()
    net.blobs["data"].reshape(2, 5)
    net.reshape()
    assert net.blobs["three"].data.shape == (2, 5)


def test_error_of_setup_is_raised_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="boom"):
        make(tmp_path, python("layer", "Exploding", "data"))


def test_param_str_is_handed_over(tmp_path: Path) -> None:
    layers = python("ten", "Times", "data", "10") + python("two", "Times", "ten", "2.5")
    net = make(tmp_path, layers)
    net.blobs["data"].data[...] = 4
    net.forward()
    assert (net.blobs["two"].data == 100).all()
    net.blobs["two"].diff[...] = 3
    net.backward()
    assert (net.blobs["data"].diff == 75).all()
    assert net.layer_dict["ten"].param_str == "10"


@pytest.mark.parametrize("phase", [caffe.TRAIN, caffe.TEST])
def test_phase_is_that_of_the_net(tmp_path: Path, phase: int) -> None:
    net = make(tmp_path, python("layer", "Phase"), phase)
    assert net.forward()["layer"] == phase


def test_parameter_has_data_and_diff_and_is_saved(tmp_path: Path) -> None:
    net = make(tmp_path, python("layer", "Parameter", "data"))
    layer = net.layers[list(net._layer_names).index("layer")]
    for _ in range(2):  # the class sets its gradient, so that passes don't add up
        net.forward()
        net.backward()
        assert layer.blobs[0].data[0] == 0
        assert layer.blobs[0].diff[0] == net.params["layer"][0].diff[0] == 1
    layer.blobs[0].data[0] += layer.blobs[0].diff[0]
    assert net.params["layer"][0].data[0] == 1
    net.save("own.caffemodel")
    net.params["layer"][0].data[0] = -1
    assert layer.blobs[0].data[0] == -1
    net.copy_from("own.caffemodel")
    assert layer.blobs[0].data[0] == 1


def test_gradient_that_is_added_to_adds_up_until_cleared(tmp_path: Path) -> None:
    net = make(tmp_path, python("layer", "Offset", "data"))
    net.blobs["layer"].diff[...] = 1
    for times in (1, 2):
        net.forward()
        net.backward()
        assert (net.params["layer"][0].diff == 10 * times).all()
    net.clear_param_diffs()
    net.backward()
    assert (net.params["layer"][0].diff == 10).all()
    assert net.params["layer"][0].shape == (9, 8)


@pytest.mark.parametrize("lr_mult", [0, 1, 3])
def test_lr_mult_counts_for_a_parameter(tmp_path: Path, lr_mult: float) -> None:
    layers = DATA + python("layer", "Offset", "data", more=f"param {{ lr_mult: {lr_mult} }}")
    loss = 'layer { name: "l" type: "Reduction" bottom: "layer" top: "l" loss_weight: 1 }'
    write(tmp_path, layers + loss)
    text = 'net: "net.prototxt" base_lr: 0.5 lr_policy: "fixed" max_iter: 9 snapshot_prefix: "s"'
    solver = caffe.SGDSolver(write(tmp_path, text, "solver.prototxt"))
    for expected in (-0.5, -1):
        solver.step(1)
        np.testing.assert_allclose(solver.net.params["layer"][0].data, 10 * lr_mult * expected)


def test_data_layer_sets_its_shape_in_forward(tmp_path: Path) -> None:
    layers = python("boxes", "Boxes") + python("two", "Times", "boxes", "2")
    net = caffe.Net(write(tmp_path, layers), caffe.TRAIN)
    batches = [np.full((n, 3), n, np.float64) for n in (2, 5, 1)]
    net.layers[0].set_samples(batches)  # the object of the user's own class
    assert type(net.layers[0]) is sys.modules["mine"].Boxes
    assert net.layers[0].type == "Python"
    held = net.blobs["boxes"].data
    for batch in (*batches, batches[0]):
        np.testing.assert_array_equal(net.forward()["two"], 2 * batch)
        assert net.blobs["boxes"].data.shape == batch.shape
    assert held.shape == (1, 3)

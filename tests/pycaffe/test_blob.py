from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import caffe_kd as caffe
from caffe_kd.core.errors import NetError, UsageError
from caffe_kd.pycaffe.blob import Blob, BlobVec
from caffe_kd.python_layers.user_layer import ArrayBlob
from tests.pycaffe.nets import BRANCHES, SMALL, write


@pytest.fixture
def net(tmp_path: Path) -> caffe.Net:
    return caffe.Net(write(tmp_path, BRANCHES), caffe.TRAIN)


def test_arrays_are_writable_float32_in_c_order(net) -> None:
    net.forward()
    net.backward()
    blobs = [*net.blobs.values(), *(b for blobs in net.params.values() for b in blobs)]
    for blob in blobs:
        for array in (blob.data, blob.diff):
            assert array.dtype == np.float32
            assert array.shape == blob.shape
            assert array.flags.c_contiguous
            assert array.flags.writeable
            array.reshape(-1)[...] = 3  # a view, so this is a write to the blob
        assert (blob.data == 3).all()
        assert (blob.diff == 3).all()


def test_array_handed_out_once_shows_every_later_pass(net) -> None:
    held = {name: blob.data for name, blob in net.blobs.items()}
    grads = {name: blob.diff for name, blob in net.blobs.items()}
    for value in (1, 2):
        net.blobs["x"].data[...] = value
        net.forward()
        net.backward()
        for name, blob in net.blobs.items():
            assert np.shares_memory(held[name], blob.data), name
            assert np.shares_memory(grads[name], blob.diff), name
    assert held["conv1"].any()
    assert grads["conv1"].any()


def test_loss_is_a_scalar_whose_diff_is_its_weight(net) -> None:
    loss = net.blobs["loss"]
    assert loss.shape == ()
    assert loss.count == 1
    assert float(loss.data) == 0
    assert loss.diff == 0.5
    assert (loss.num, loss.channels, loss.height, loss.width) == (1, 1, 1, 1)


def test_legacy_extents_count_from_the_front(net) -> None:
    blob = Blob.empty((2, 3, 4, 5))
    assert (blob.num, blob.channels, blob.height, blob.width) == (2, 3, 4, 5)
    assert blob.count == 2 * 3 * 4 * 5
    flat = net.blobs["flat"]
    assert (flat.num, flat.channels, flat.height, flat.width) == (4, 54, 1, 1)
    deep = Blob.empty((1, 1, 1, 1, 1))
    with pytest.raises(NetError, match="Cannot use legacy accessors on Blobs with > 4 axes"):
        _ = deep.num


def test_reshape_keeps_values_if_their_number_stays(net) -> None:
    blob = net.blobs["x"]
    blob.data[...] = np.arange(blob.count).reshape(blob.shape)
    blob.reshape(8, 2, 6, 6)
    assert blob.data.shape == (8, 2, 6, 6)
    np.testing.assert_array_equal(blob.data.reshape(-1), np.arange(blob.count))
    blob.reshape(2, 3)
    assert blob.data.shape == blob.diff.shape == (2, 3)
    for dims in ((-1, 2), (2**16, 2**15)):
        with pytest.raises(NetError, match="INT_MAX"):
            blob.reshape(*dims)


def test_parameter_may_change_its_shape_but_not_its_size(net) -> None:
    blob = net.params["ip"][0]
    blob.data[...] = 1
    blob.reshape(1, 1, *blob.shape)
    assert blob.data.shape == (1, 1, 5, 54)
    with pytest.raises(NetError, match="number of values of a parameter blob cannot change"):
        blob.reshape(5, 55)


def test_data_of_a_fresh_net_is_what_its_fillers_made(tmp_path: Path) -> None:
    net = caffe.Net(write(tmp_path, SMALL), caffe.TRAIN)
    assert net.blobs["data"].data.std() > 0.5
    assert not net.blobs["ip_blob"].data.any()
    assert (net.params["conv"][1].data == 2).all()


def test_blob_vec_adds_blobs_of_zeros() -> None:
    blobs = BlobVec()
    blobs.add_blob(2, 3)
    blobs.add_blob()
    assert [b.shape for b in blobs] == [(2, 3), ()]
    blobs[0].diff[0] = 1
    np.testing.assert_array_equal(blobs[0].diff, [[1, 1, 1], [0, 0, 0]])
    assert not blobs[0].data.any()


def test_array_of_a_users_layer_has_legacy_extents_too() -> None:
    blob = ArrayBlob()
    blob.reshape(2, 3)
    assert (blob.num, blob.channels, blob.height, blob.width, blob.count) == (2, 3, 1, 1, 6)
    blob.reshape(1, 1, 1, 1, 1)
    for kind in (NetError, RuntimeError):
        with pytest.raises(kind, match="Cannot use legacy accessors on Blobs with > 4 axes"):
            _ = blob.width


def test_address_on_a_gpu_is_refused_by_a_net_of_the_cpu(net) -> None:
    for name in ("_gpu_data_ptr", "_gpu_diff_ptr"):
        with pytest.raises(UsageError, match="computed by the CPU"):
            getattr(net.blobs["x"], name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_address_on_a_gpu_leads_to_the_values_in_c_order(tmp_path: Path) -> None:
    caffe.set_mode_gpu()
    try:
        net = caffe.Net(write(tmp_path, BRANCHES), caffe.TRAIN)
    finally:
        caffe.set_mode_cpu()
    net.forward()
    for blob in (net.blobs["conv2"], net.params["conv1"][0]):
        there = SimpleNamespace(
            __cuda_array_interface__={
                "shape": blob.shape, "typestr": "<f4", "version": 2,
                "data": (blob._gpu_data_ptr, False),
            }
        )  # fmt: skip
        values = torch.as_tensor(there, device="cuda").cpu().numpy()
        np.testing.assert_array_equal(values, blob.data)

from __future__ import annotations

import numpy as np
import pytest

from caffe_kd.python_layers.user_layer import ArrayBlob
from tests.helpers import make_layer
from tests.layers.python_nets import (
    body,
    user_layers_found,
    without_caffe,
)

pytestmark = without_caffe


@pytest.fixture(autouse=True)
def users(monkeypatch):
    yield from user_layers_found(monkeypatch)


def test_blob_has_legacy_extents():
    blob = ArrayBlob()
    blob.reshape(2, 3)
    assert (blob.num, blob.channels, blob.height, blob.width) == (2, 3, 1, 1)
    assert (blob.count, blob.shape, blob.data.dtype) == (6, (2, 3), np.float32)
    blob.reshape(1, 2, 3, 4, 5)
    with pytest.raises(RuntimeError, match="Cannot use legacy accessors"):
        assert blob.num


def test_blob_keeps_its_values_where_they_have_room():
    blob = ArrayBlob()
    blob.reshape(2, 3)
    blob.data[...] = [[1, 2, 3], [4, 5, 6]]
    blob.diff[...] = 7
    blob.reshape(2, 2)
    assert blob.data.tolist() == [[1, 2], [3, 4]]
    blob.reshape(6)
    assert blob.data.tolist() == [1, 2, 3, 4, 5, 6]
    assert blob.diff.tolist() == [7] * 6
    blob.reshape(7)
    assert blob.data.shape == blob.diff.shape == (7,)
    blob.reshape()
    assert blob.data.shape == ()


@pytest.mark.parametrize(("dims", "error"), [((2.0,), TypeError), ((-1,), ValueError)])
def test_blob_refuses_absurd_extents(dims, error):
    with pytest.raises(error):
        ArrayBlob().reshape(*dims)


def test_parameter_blob_keeps_its_shape():
    layer = make_layer(body("Parameter"), (2,))
    with pytest.raises(RuntimeError, match="keeps the shape from add_blob"):
        layer.user_layer.blobs[0].reshape(2)


def test_type_of_a_users_layer():
    assert make_layer(body("TimesTen"), (2,)).user_layer.type == "Python"

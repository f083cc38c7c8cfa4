from __future__ import annotations

import sys

import pytest

import caffe_kd
from caffe_kd.core.errors import NetError
from tests.helpers import layer_net
from tests.layers.python_nets import (
    body,
    user_layers_found,
    without_caffe,
)

pytestmark = without_caffe


@pytest.fixture(autouse=True)
def users(monkeypatch):
    yield from user_layers_found(monkeypatch)


def test_caffe_is_this_package_only_for_users_code():
    assert "caffe" not in sys.modules
    net = layer_net(body("Importing"), (2,))
    net.forward()
    assert sys.modules["user_layers"].caffe is caffe_kd
    assert "caffe" not in sys.modules and "caffe.proto" not in sys.modules
    with pytest.raises(ImportError):
        import caffe  # noqa: F401


def test_folder_that_is_called_caffe_is_not_caffe(tmp_path, monkeypatch):
    (tmp_path / "caffe").mkdir()
    monkeypatch.chdir(tmp_path)
    layer_net(body("TimesTen"), (2,))
    assert sys.modules["user_layers"].caffe is caffe_kd


def test_original_that_is_installed_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "caffe").mkdir()
    (tmp_path / "caffe" / "__init__.py").write_text("class Layer:\n    pass\n")
    (tmp_path / "mine.py").write_text("import caffe\nclass Own(caffe.Layer):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with pytest.raises(NetError, match="write `import caffe_kd as caffe` in the module"):
            layer_net(body("Own", module="mine"), (2,))
    finally:
        assert sys.modules.pop("caffe").__file__ == str(tmp_path / "caffe" / "__init__.py")

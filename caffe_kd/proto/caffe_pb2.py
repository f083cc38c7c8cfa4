"""The message classes of Caffe's schema, named as in Caffe's module of this name.

``from caffe_kd.proto import caffe_pb2; net = caffe_pb2.NetParameter()``. Enums are where ``protoc``
puts them: ``caffe_pb2.TRAIN``, ``caffe_pb2.Phase.Name(0)``, ``caffe_pb2.PoolingParameter.MAX``. The
classes live in a private descriptor pool (see ``schema.py``), so Caffe's own ``caffe_pb2`` may be
loaded as well.
"""

from __future__ import annotations

from typing import Any

from . import schema

DESCRIPTOR = schema.descriptor()
globals().update(schema.messages())
globals().update(schema.enums())
globals().update(schema.enum_values())
for _message in schema.messages().values():
    _message.__module__ = __name__  # pickle looks the class up here, not in Caffe's module


def __getattr__(name: str) -> Any:  # for type checkers: the classes exist
    raise AttributeError(f"module 'caffe_pb2' has no message, enum or value '{name}'")

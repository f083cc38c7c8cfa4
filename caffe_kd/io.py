"""The name under which scripts import ``pycaffe/io.py``, which it stands for."""

from __future__ import annotations

import sys

from .pycaffe import io

sys.modules[__name__] = io

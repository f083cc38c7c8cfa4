"""The name under which scripts import ``pycaffe/draw.py``, which it stands for."""

from __future__ import annotations

import sys

from .pycaffe import draw

sys.modules[__name__] = draw

"""The name under which scripts import ``pycaffe/coord_map.py``, which it stands for."""

from __future__ import annotations

import sys

from .pycaffe import coord_map

sys.modules[__name__] = coord_map

"""The name under which scripts import ``pycaffe/net_spec.py``, which it stands for."""

from __future__ import annotations

import sys

from .pycaffe import net_spec

sys.modules[__name__] = net_spec

"""The name under which scripts import ``pycaffe/detector.py``, which it stands for."""

from __future__ import annotations

import sys

from .pycaffe import detector

sys.modules[__name__] = detector

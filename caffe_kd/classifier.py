"""The name under which scripts import ``pycaffe/classifier.py``, which it stands for."""

from __future__ import annotations

import sys

from .pycaffe import classifier

sys.modules[__name__] = classifier

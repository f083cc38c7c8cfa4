"""Caffe's training workflow with knowledge distillation, on PyTorch.

Networks are prototxt, a run is a solver prototxt, weights are ``.caffemodel``. See README.md.
"""

from .version import VERSION as __version__

__all__ = ["__version__"]

"""Post-training quantisation: a trained net as an int8 ONNX model."""

from .options import Method, Options
from .pipeline import quantize
from .results import BlobRange, Quantized

__all__ = ["BlobRange", "Method", "Options", "Quantized", "quantize"]

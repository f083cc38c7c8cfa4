"""The net that is deployed, and its ONNX model."""

"""The deployed net, and its export to ONNX and PyTorch."""

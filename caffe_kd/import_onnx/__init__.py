"""From an ONNX model to a net: prototxt and caffemodel, checked against ONNX Runtime."""

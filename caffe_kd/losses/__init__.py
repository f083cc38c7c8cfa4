"""Loss formulas as pure functions of tensors; the layer types make them available in a prototxt."""

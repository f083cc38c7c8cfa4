"""Loss formulas as pure functions of tensors; the layer types hang them into a prototxt."""

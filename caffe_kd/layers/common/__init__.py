"""Common layers: linear maps, factors and offsets, Dropout.

Caffe's layer catalogue: Common Layers; Bias and Scale are there among the activations.
"""

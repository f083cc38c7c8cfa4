"""Activation layers: each value of the top is a function of one value of the bottom.

Caffe's layer catalogue: Activation / Neuron Layers.
"""

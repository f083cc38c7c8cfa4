"""Normalization layers: they bring values to a common mean, variance or length.

Caffe's layer catalogue: Normalization Layers; with BN and Normalize of forks.
"""

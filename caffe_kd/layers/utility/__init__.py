"""Utility layers: they move, join, select or output values; Softmax and Python are here, too.

Caffe's layer catalogue: Utility Layers; with those of forks and of this project.
"""

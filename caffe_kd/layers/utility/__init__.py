"""Utility layers: they move, join, pick or show values; Softmax and Python are here, too.

Caffe's layer catalogue: Utility Layers; with those of forks and of this project.
"""

"""Vision layers: they work on the positions of an image or a feature map.

Caffe's layer catalogue: Vision Layers; with those of forks.
"""

"""Recurrent layers: they work on sequences, timestep by timestep.

Caffe's layer catalogue: Recurrent Layers.
"""

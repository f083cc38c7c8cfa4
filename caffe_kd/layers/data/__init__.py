"""Data layers: they read samples into a net, or write blobs to files.

Caffe's layer catalogue: Data Layers.
"""

"""Detection layers: boxes and regions of object detectors.

Caffe's layer catalogue has none; the types are those of Fast R-CNN, SSD and R-FCN.
"""

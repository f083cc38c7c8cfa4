"""Loss layers: they compare outputs with labels or targets; Accuracy measures alone.

Caffe's layer catalogue: Loss Layers; with CenterLoss and SmoothL1Loss of forks.
"""

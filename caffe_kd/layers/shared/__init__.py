"""What several layer types share; no file here is a layer type.

* batch_statistics: the base of BatchNorm and BN, which average over batches.
* boxes: arithmetic of boxes and regions, and the base of layers that pool regions.
* channels: the base of PReLU, Normalize and ShuffleChannel, which go by channels.
* indices: the base of layers with a bottom of indices, such as labels.
* many_axes: convolution over more spatial axes than torch has kernels for.
* python_layer: the parameter blobs of a user's Python layer.
* samples: the base of data layers whose samples have numbers.
* scheduled: settings that follow a schedule, such as a temperature.
"""

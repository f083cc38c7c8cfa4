"""Code that several layer types share; no file here is a layer type.

* batch_statistics: the base of BatchNorm and BN, with their running statistics.
* boxes: arithmetic of boxes and regions, and the base of layers that pool regions.
* channels: the base of PReLU, Normalize and ShuffleChannel.
* indices: the base of layers with a bottom of indices, such as labels.
* many_axes: convolution over more spatial axes than torch has kernels for.
* python_layer: the parameter blobs of a user's Python layer.
* sample_layer: the base of data layers that read numbered samples.
* scheduled: settings that follow a schedule, such as a temperature.
"""

"""Finds the pixels that a class hangs on, and checks their gradient: saliency.py CLASS."""

import sys

import caffe
import numpy as np

prototxt = "force_backward: true\n" + open("deploy.prototxt").read()
open("saliency.prototxt", "w").write(prototxt)
net = caffe.Net("saliency.prototxt", caffe.TEST, weights="net.caffemodel")
transformer = caffe.io.Transformer({"data": net.blobs["data"].data.shape})
transformer.set_transpose("data", (2, 0, 1))
transformer.set_mean("data", np.load("mean.npy").mean(1).mean(1))
transformer.set_raw_scale("data", 16.0)
net.blobs["data"].reshape(1, 1, 8, 8)
image = np.random.RandomState(0).rand(8, 8, 1)
net.blobs["data"].data[...] = transformer.preprocess("data", image)
net.forward()
label = np.zeros((1, 10))
label[0, int(sys.argv[1])] = 1
diff = net.backward(**{net.outputs[0]: label})["data"].copy()
saliency = np.amax(np.abs(diff[0]), axis=0)
saliency -= saliency.min()
saliency /= saliency.max()

x = net.blobs["data"].data
numeric = np.zeros(x.size)
for i in range(x.size):
    there = x.flat[i]
    outs = []
    for step in (0.02, -0.02):
        x.flat[i] = there + step
        outs.append(float(net.forward()["prob"][0, int(sys.argv[1])]))
    x.flat[i] = there
    numeric[i] = (outs[0] - outs[1]) / 0.04
print(saliency.shape, np.abs(numeric - diff.ravel()).max() / np.abs(numeric).max())

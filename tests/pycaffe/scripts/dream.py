"""Strengthens the outputs of a layer, at two sizes of an image: dream.py LAYER."""

import sys

import caffe
import numpy as np
from google.protobuf import text_format

end = sys.argv[1]
model = caffe.io.caffe_pb2.NetParameter()
text_format.Merge(open("deploy.prototxt").read(), model)
model.force_backward = True
open("tmp.prototxt", "w").write(str(model))
net = caffe.Classifier("tmp.prototxt", "net.caffemodel", mean=np.float32([8.0]), channel_swap=(0,))


def preprocess(net, img):
    return np.float32(np.rollaxis(img, 2)[::-1]) - net.transformer.mean["data"]


def make_step(net, step_size=0.1, jitter=1):
    src, dst = net.blobs["data"], net.blobs[end]
    ox, oy = np.random.randint(-jitter, jitter + 1, 2)
    src.data[0] = np.roll(np.roll(src.data[0], ox, -1), oy, -2)
    net.forward(end=end)
    strength = np.linalg.norm(dst.data)
    dst.diff[:] = dst.data
    net.backward(start=end)
    g = src.diff[0]
    src.data[:] += step_size / np.abs(g).mean() * g
    src.data[0] = np.roll(np.roll(src.data[0], -ox, -1), -oy, -2)
    bias = net.transformer.mean["data"]
    src.data[:] = np.clip(src.data, -bias, 255 - bias)
    return strength


np.random.seed(0)
image = np.random.rand(8, 8, 1) * 16
src = net.blobs["data"]
for octave in (image, image.repeat(2, 0).repeat(2, 1)):
    h, w = octave.shape[:2]
    src.reshape(1, 1, h, w)
    src.data[0] = preprocess(net, octave)
    strengths = [make_step(net) for _ in range(15)]
    print(net.blobs[end].data.shape, strengths[-1] / strengths[0])

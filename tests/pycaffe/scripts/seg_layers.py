"""Data for solve_fcn.py: images of several sizes, each with the label of its pixels."""

import caffe
import numpy as np


class SegData(caffe.Layer):
    def setup(self, bottom, top):
        params = eval(self.param_str)
        self.mean = np.array(params["mean"])
        self.idx = 0
        if len(top) != 2:
            raise Exception("Need to define two tops: data and label.")
        if len(bottom) != 0:
            raise Exception("Do not define a bottom.")

    def reshape(self, bottom, top):
        draw = np.random.RandomState(self.idx)
        self.data = draw.rand(3, 12 + 4 * (self.idx % 3), 16) - self.mean[:, None, None]
        self.label = (self.data.sum(0) > 0)[np.newaxis, ...].astype(np.uint8)
        top[0].reshape(1, *self.data.shape)
        top[1].reshape(1, *self.label.shape)

    def forward(self, bottom, top):
        top[0].data[...] = self.data
        top[1].data[...] = self.label
        self.idx = (self.idx + 1) % 4

    def backward(self, top, propagate_down, bottom):
        pass

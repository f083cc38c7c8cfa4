"""Layers as users of pycaffe write them; found by its name as a module of its own."""

import json

import caffe
import numpy as np


class EuclideanLoss(caffe.Layer):
    def setup(self, bottom, top):
        if len(bottom) != 2:
            raise Exception("Need two inputs to compute distance.")

    def reshape(self, bottom, top):
        if bottom[0].count != bottom[1].count:
            raise Exception("Inputs must have the same dimension.")
        self.diff = np.zeros_like(bottom[0].data)
        top[0].reshape(1)

    def forward(self, bottom, top):
        self.diff[...] = bottom[0].data - bottom[1].data
        top[0].data[...] = np.sum(self.diff**2) / bottom[0].num / 2.0

    def backward(self, top, propagate_down, bottom):
        for i in range(2):
            if not propagate_down[i]:
                continue
            sign = 1 if i == 0 else -1
            bottom[i].diff[...] = sign * top[0].diff[0] * self.diff / bottom[i].num


class TimesTen(caffe.Layer):
    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):
        top[0].data[...] = 10 * bottom[0].data

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = 10 * top[0].diff


class Counting(caffe.Layer):
    """A data layer: counts on, from batch to batch."""

    def setup(self, bottom, top):
        params = eval(self.param_str)
        self.batch, self.limit = params["batch"], params.get("limit", 100)
        self.next = 0
        top[0].reshape(self.batch, params["width"])
        top[1].reshape(self.batch)

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        for i in range(self.batch):
            top[0].data[i, ...] = self.next / float(self.limit)
            top[1].data[i] = self.next % 3
            self.next = (self.next + 1) % self.limit

    def backward(self, top, propagate_down, bottom):
        pass


class Exploding(caffe.Layer):
    def setup(self, bottom, top):
        raise RuntimeError("boom")


class Scaled(caffe.Layer):
    """Has a parameter: a factor for each channel."""

    def setup(self, bottom, top):
        params = json.loads(self.param_str or "{}")
        self.blobs.add_blob(bottom[0].channels)
        self.blobs[0].data[...] = params.get("first", 1.0)

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data * self.blobs[0].data

    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[...] += np.sum(top[0].diff * bottom[0].data, axis=0)
        if propagate_down[0]:
            bottom[0].diff[...] = top[0].diff * self.blobs[0].data


class Parameter(caffe.Layer):
    def setup(self, bottom, top):
        self.blobs.add_blob(1)
        self.blobs[0].data[0] = 0

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):
        pass

    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[0] = 1


class Phase(caffe.Layer):
    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape()

    def forward(self, bottom, top):
        top[0].data[()] = self.phase


class OldParamStr(TimesTen):
    def forward(self, bottom, top):
        top[0].data[...] = float(self.param_str_) * bottom[0].data


class InPlace(caffe.Layer):
    """Rectifies in the blob it is given."""

    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        bottom[0].data[...] = np.maximum(bottom[0].data, 0)

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] *= top[0].data > 0


class TwoTops(caffe.Layer):
    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        for blob in top:
            blob.reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = np.sin(bottom[0].data) * bottom[1].data
        top[1].data[...] = bottom[0].data ** 2

    def backward(self, top, propagate_down, bottom):
        x, y = bottom[0].data, bottom[1].data
        bottom[0].diff[...] = top[0].diff * np.cos(x) * y + 2 * top[1].diff * x
        bottom[1].diff[...] = top[0].diff * np.sin(x)


class Watching(caffe.Layer):
    """No tops: looks on."""

    seen = []

    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        self.seen.append(bottom[0].data.copy())


class Failing(TimesTen):
    def forward(self, bottom, top):
        if self.param_str == "forward":
            self.divide(bottom)
        super().forward(bottom, top)

    def divide(self, bottom):
        np.reshape(bottom[0].data, (7, 11, 13))

    def backward(self, top, propagate_down, bottom):
        raise KeyError("no such gradient")


class NoBackward(caffe.Layer):
    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data


class Shapeless(NoBackward):
    def reshape(self, bottom, top):
        pass


class Importing(TimesTen):
    """Needs the package once more, when it runs."""

    def forward(self, bottom, top):
        from caffe.proto import caffe_pb2

        super().forward(bottom, top)
        assert caffe_pb2.TRAIN == caffe.TRAIN


class NotALayer:
    pass


class EndOfData(Exception):
    def __init__(self, epoch, reason):
        super().__init__(f"epoch {epoch}: {reason}")
        self.epoch = epoch


class Ending(TimesTen):
    def forward(self, bottom, top):
        raise EndOfData(3, "done")

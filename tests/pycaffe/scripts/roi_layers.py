"""Data for rcnn.py: a minibatch of a roidb, with as many regions as there happen to be."""

import json

import caffe
import numpy as np


class RoiDataLayer(caffe.Layer):
    def set_roidb(self, roidb):
        self._roidb, self._cur = roidb, 0

    def setup(self, bottom, top):
        layer_params = json.loads(self.param_str_)
        self._num_classes = layer_params["num_classes"]
        self._name_to_top_map = {"data": 0, "rois": 1}
        top[0].reshape(2, 1, 8, 8)
        top[1].reshape(1, 5)

    def forward(self, bottom, top):
        batch = [self._roidb[self._cur], self._roidb[self._cur + 1]]
        self._cur = (self._cur + 2) % len(self._roidb)
        blobs = {"data": np.stack(batch)[:, None], "rois": np.ones((1 + self._cur % 3, 5))}
        for name, blob in blobs.items():
            top_ind = self._name_to_top_map[name]
            top[top_ind].reshape(*(blob.shape))
            top[top_ind].data[...] = blob.astype(np.float32, copy=False)

    def backward(self, top, propagate_down, bottom):
        pass

    def reshape(self, bottom, top):
        pass

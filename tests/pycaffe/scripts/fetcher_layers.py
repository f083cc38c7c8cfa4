"""A data layer whose batches come from another process."""

import json
import multiprocessing

import caffe
import numpy as np


class BlobFetcher(multiprocessing.Process):
    """Makes batches in a process of its own."""

    def __init__(self, queue, batch, seed):
        super().__init__()
        self._queue, self._batch, self._random = queue, batch, np.random.RandomState(seed)
        self.daemon = True

    def run(self):
        while True:
            label = self._random.randint(3, size=self._batch)
            data = np.eye(3)[label] * 2 + 0.1 * self._random.randn(self._batch, 3)
            self._queue.put({"data": data.astype(np.float32), "label": label.astype(np.float32)})


class FetchedData(caffe.Layer):
    def setup(self, bottom, top):
        params = json.loads(self.param_str_)
        self._names = {"data": 0, "label": 1}
        top[0].reshape(params["batch"], 3)
        top[1].reshape(params["batch"])
        self._queue = multiprocessing.Queue(4)
        self._fetcher = BlobFetcher(self._queue, params["batch"], params["seed"])
        self._fetcher.start()

    def forward(self, bottom, top):
        for name, blob in self._queue.get().items():
            index = self._names[name]
            top[index].reshape(*blob.shape)
            top[index].data[...] = blob.astype(np.float32, copy=False)

    def backward(self, top, propagate_down, bottom):
        pass

    def reshape(self, bottom, top):
        pass

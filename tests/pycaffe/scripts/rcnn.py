"""Finetunes with a loop of its own, and writes scaled weights: rcnn.py."""

import caffe
import google.protobuf as pb2
import google.protobuf.text_format
import numpy as np
from caffe.proto import caffe_pb2


class SolverWrapper:
    def __init__(self, solver_prototxt, roidb, pretrained_model=None):
        self.stds = np.array([0.1, 0.2, 0.3])
        self.solver = caffe.SGDSolver(solver_prototxt)
        if pretrained_model is not None:
            self.solver.net.copy_from(pretrained_model)
        self.solver_param = caffe_pb2.SolverParameter()
        with open(solver_prototxt, "rt") as f:
            pb2.text_format.Merge(f.read(), self.solver_param)
        self.solver.net.layers[0].set_roidb(roidb)

    def snapshot(self):
        net = self.solver.net
        orig_0 = net.params["pred"][0].data.copy()
        net.params["pred"][0].data[...] = net.params["pred"][0].data * self.stds[:, np.newaxis]
        filename = self.solver_param.snapshot_prefix + "_iter_{:d}".format(self.solver.iter)
        net.save(str(filename + ".caffemodel"))
        net.params["pred"][0].data[...] = orig_0

    def train_model(self, max_iters):
        losses = []
        while self.solver.iter < max_iters:
            self.solver.step(1)
            losses.append(self.solver.net.blobs["loss"].data.item())
        self.snapshot()
        return losses


roidb = [np.random.RandomState(i).rand(8, 8) for i in range(20)]
wrapper = SolverWrapper("rcnn_solver.prototxt", roidb)
losses = wrapper.train_model(40)
print(losses[0], losses[-1], wrapper.solver.net.blobs["rois"].data.shape[1])
saved = caffe.Net("rcnn.prototxt", "rcnn_iter_40.caffemodel", caffe.TEST)
ratio = saved.params["pred"][0].data / wrapper.solver.net.params["pred"][0].data
print(np.allclose(ratio, wrapper.stds[:, np.newaxis]))

net = caffe.Net("deploy.prototxt", "net.caffemodel", caffe.TEST)
for size in ((2, 1, 8, 8), (5, 1, 8, 8)):
    blobs = {"data": np.random.rand(*size)}
    net.blobs["data"].reshape(*(blobs["data"].shape))
    out = net.forward(**{"data": blobs["data"].astype(np.float32, copy=False)})
    print(out["prob"].shape)

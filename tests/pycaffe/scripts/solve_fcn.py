"""Trains a fully convolutional net on a Python layer's data, and scores it: solve_fcn.py."""

import caffe
import numpy as np
from caffe import layers as L
from caffe import params as P
from caffe.coord_map import crop


def fcn(split):
    n = caffe.NetSpec()
    settings = dict(split=split, mean=(0.5, 0.5, 0.5), seed=1337)
    n.data, n.label = L.Python(
        module="seg_layers", layer="SegData", ntop=2, param_str=str(settings)
    )
    n.conv1_1 = L.Convolution(
        n.data, kernel_size=3, num_output=8, pad=10, weight_filler=dict(type="xavier"),
        param=[dict(lr_mult=1, decay_mult=1), dict(lr_mult=2, decay_mult=0)],
    )  # fmt: skip
    n.relu1_1 = L.ReLU(n.conv1_1, in_place=True)
    n.pool1 = L.Pooling(n.relu1_1, pool=P.Pooling.MAX, kernel_size=2, stride=2)
    n.score_fr = L.Convolution(
        n.pool1, num_output=2, kernel_size=1, weight_filler=dict(type="xavier")
    )
    n.upscore = L.Deconvolution(
        n.score_fr, param=[dict(lr_mult=0)],
        convolution_param=dict(num_output=2, kernel_size=4, stride=2, bias_term=False),
    )  # fmt: skip
    n.score = crop(n.upscore, n.data)
    n.loss = L.SoftmaxWithLoss(n.score, n.label, loss_param=dict(normalize=False, ignore_label=255))
    return n.to_proto()


def upsample_filt(size):
    factor = (size + 1) // 2
    center = factor - 1 if size % 2 == 1 else factor - 0.5
    og = np.ogrid[:size, :size]
    return (1 - abs(og[0] - center) / factor) * (1 - abs(og[1] - center) / factor)


def interp(net, layers):
    for name in layers:
        m, k, h, w = net.params[name][0].data.shape
        assert m == k and h == w
        net.params[name][0].data[range(m), range(k), :, :] = upsample_filt(h)


def fast_hist(a, b, n):
    return np.bincount(n * a.astype(int) + b, minlength=n**2).reshape(n, n)


def score(net, count):
    n_cl = net.blobs["score"].channels
    hist, loss = np.zeros((n_cl, n_cl)), 0
    for _ in range(count):
        net.forward()
        truth = net.blobs["label"].data[0, 0].flatten()
        hist += fast_hist(truth, net.blobs["score"].data[0].argmax(0).flatten(), n_cl)
        loss += net.blobs["loss"].data.flat[0]
    return np.diag(hist).sum() / hist.sum(), loss / count


for split in ("train", "val"):
    with open(split + ".prototxt", "w") as f:
        f.write(str(fcn(split)))
with open("solver.prototxt", "w") as f:
    f.write(
        'train_net: "train.prototxt" test_net: "val.prototxt" test_iter: 736 '
        'test_interval: 999999999 test_initialization: false lr_policy: "fixed" base_lr: 1e-4 '
        'momentum: 0.9 iter_size: 1 weight_decay: 0.0005 snapshot: 4000 snapshot_prefix: "s" '
        "average_loss: 20 display: 20 random_seed: 1"
    )
solver = caffe.SGDSolver("solver.prototxt")
interp(solver.net, [k for k in solver.net.params.keys() if "up" in k])
filters = solver.net.params["upscore"][0].data.copy()
for _ in range(3):
    solver.step(25)
    solver.test_nets[0].share_with(solver.net)
    print("%.4f %.4f" % score(solver.test_nets[0], 4))
new = caffe.Net("val.prototxt", caffe.TEST)
for name in solver.net.params:
    for i in range(len(solver.net.params[name])):
        new.params[name][i].data.flat = solver.net.params[name][i].data.flat
print("%.4f %.4f" % score(new, 4))
print((filters == solver.net.params["upscore"][0].data).all())

"""Learns to go on with a sequence, and writes it sign by sign: sequence.py."""

import caffe
import numpy as np
from caffe import layers as L

TEXT = "abcdefgh" * 40
SIGNS = sorted(set(TEXT))
T, N = 8, 4


def make(steps, streams, train):
    n = caffe.NetSpec()
    n.data, n.clip = (L.Input(shape=dict(dim=[steps, streams])) for _ in range(2))
    u = dict(type="uniform", min=-0.2, max=0.2)
    n.embed = L.Embed(n.data, input_dim=len(SIGNS), num_output=8, bias_term=False, weight_filler=u)
    n.lstm = L.LSTM(n.embed, n.clip, recurrent_param=dict(num_output=16, weight_filler=u))
    n.score = L.InnerProduct(n.lstm, num_output=len(SIGNS), axis=2, weight_filler=u)
    if train:
        n.label = L.Input(shape=dict(dim=[steps, streams]))
        n.loss = L.SoftmaxWithLoss(n.score, n.label, softmax_param=dict(axis=2))
    else:
        n.prob = L.Softmax(n.score, axis=2)
    return n.to_proto()


open("seq_train.prototxt", "w").write(str(make(T, N, True)))
open("seq_one.prototxt", "w").write(str(make(1, 1, False)))
open("seq_solver.prototxt", "w").write(
    'net: "seq_train.prototxt" type: "Adam" base_lr: 0.02 lr_policy: "fixed" momentum: 0.9\n'
    'clip_gradients: 5 max_iter: 1000 random_seed: 7 snapshot_prefix: "seq" display: 0'
)
caffe.set_mode_cpu()
solver = caffe.get_solver("seq_solver.prototxt")
codes = np.array([SIGNS.index(s) for s in TEXT])
streams = codes[: len(codes) // N * N].reshape(N, -1).T  # time x streams
at = 0
for it in range(120):
    if at + T + 1 > len(streams):
        at = 0
    solver.net.blobs["data"].data[...] = streams[at : at + T]
    solver.net.blobs["label"].data[...] = streams[at + 1 : at + T + 1]
    solver.net.blobs["clip"].data[...] = 1
    solver.net.blobs["clip"].data[0] = at > 0
    solver.step(1)
    if it % 40 == 0:
        print("iter", it, "loss %.3f" % solver.net.blobs["loss"].data)
    at += T
print("last loss small:", float(solver.net.blobs["loss"].data) < 0.2)

net = caffe.Net("seq_one.prototxt", caffe.TEST)
net.share_with(solver.net)
out, sign = "a", SIGNS.index("a")
for t in range(20):
    net.blobs["clip"].data[...] = t > 0
    net.blobs["data"].data[...] = sign
    sign = int(net.forward()["prob"][0, 0].argmax())
    out += SIGNS[sign]
print(out)
# all at once gives what step by step gave
net.blobs["data"].reshape(len(out) - 1, 1)
net.blobs["clip"].reshape(len(out) - 1, 1)
net.reshape()
net.blobs["data"].data[:, 0] = [SIGNS.index(s) for s in out[:-1]]
net.blobs["clip"].data[...] = 1
net.blobs["clip"].data[0] = 0
again = net.forward()["prob"][:, 0].argmax(1)
print("".join(SIGNS[i] for i in again) == out[1:])

"""Splits an InnerProduct by SVD, prunes and retrains with masks: compress.py."""

import caffe
import numpy as np
from caffe.proto import caffe_pb2
from google.protobuf import text_format

RANK = 6


def read(path):
    net = caffe_pb2.NetParameter()
    with open(path) as f:
        text_format.Merge(f.read(), net)
    return net


# --- low rank: score becomes score_u after score_v
proto = read("deploy.prototxt")
out = caffe_pb2.NetParameter()
out.name = "low_rank"
for layer in proto.layer:
    if layer.name != "score":
        out.layer.add().CopyFrom(layer)
        continue
    v = out.layer.add()
    v.CopyFrom(layer)
    v.name = "score_v"
    v.top[0] = "score_v"
    v.inner_product_param.num_output = RANK
    v.inner_product_param.bias_term = False
    u = out.layer.add()
    u.CopyFrom(layer)
    u.name, u.bottom[0] = "score_u", "score_v"
with open("low_rank.prototxt", "w") as f:
    f.write(text_format.MessageToString(out))
net = caffe.Net("deploy.prototxt", "net.caffemodel", caffe.TEST)
small = caffe.Net("low_rank.prototxt", "net.caffemodel", caffe.TEST)
W, b = (p.data for p in net.params["score"])
U, s, V = np.linalg.svd(W, full_matrices=False)
small.params["score_v"][0].data[...] = V[:RANK]
small.params["score_u"][0].data[...] = U[:, :RANK] * s[:RANK]
small.params["score_u"][1].data[...] = b
small.save("low_rank.caffemodel")
x = np.random.RandomState(1).rand(10, 1, 8, 8).astype(np.float32)
one = net.forward_all(data=x, blobs=["score"])["score"]
two = small.forward_all(data=x, blobs=["score"])["score"]
print(np.abs(one - two).max() / np.abs(one).max(), *small._layer_names[-3:])

# --- prune to 40 % and retrain with the mask
train = read("deploy.prototxt")
data = train.layer[0]
data.input_param.shape.add().dim.append(10)
data.top.append("label")
last = train.layer[len(train.layer) - 1]
last.type = "SoftmaxWithLoss"
last.name = "loss"
last.bottom.append("label")
last.top[0] = "loss"
train.layer.add(name="acc", type="Accuracy", bottom=["score", "label"], top=["acc"])
open("prune.prototxt", "w").write(str(train))
sp = caffe_pb2.SolverParameter(
    net="prune.prototxt", base_lr=0.2, lr_policy="fixed", momentum=0.9, max_iter=100, random_seed=3
)
sp.solver_mode = caffe_pb2.SolverParameter.SolverMode.Value("CPU")
open("prune_solver.prototxt", "w").write(str(sp))
solver = caffe.SGDSolver("prune_solver.prototxt")
solver.net.copy_from("net.caffemodel")
masks = {}
for name, blobs in solver.net.params.items():
    w = blobs[0].data
    masks[name] = np.abs(w) >= np.sort(np.abs(w).ravel())[int(0.6 * w.size)]
labels = np.arange(10)
rnd = np.random.RandomState(2)
base = rnd.rand(10, 1, 8, 8)
losses = []
for _ in range(60):
    for name, mask in masks.items():
        solver.net.params[name][0].data[...] *= mask
    solver.net.blobs["data"].data[...] = base + 0.05 * rnd.randn(*base.shape)
    solver.net.blobs["label"].data[...] = labels
    solver.net.forward()
    solver.net.backward()
    for name, mask in masks.items():
        solver.net.params[name][0].diff[...] *= mask
    solver.apply_update()
    solver.net.clear_param_diffs()
    losses.append(float(solver.net.blobs["loss"].data))
zeros = [float((solver.net.params[n][0].data == 0).mean()) for n in masks]
print(losses[0], losses[-1], *zeros)

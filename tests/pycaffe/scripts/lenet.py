"""Writes a net, steps its solver, and tests by hand: lenet.py."""

import caffe
import numpy as np
from caffe import layers as L
from caffe import params as P


def lenet(lmdb, batch_size):
    n = caffe.NetSpec()
    n.data, n.label = L.Data(
        batch_size=batch_size, backend=P.Data.LMDB, source=lmdb, ntop=2,
        transform_param=dict(scale=1.0 / 16),
    )  # fmt: skip
    n.conv1 = L.Convolution(n.data, kernel_size=3, num_output=12, weight_filler=dict(type="xavier"))
    n.pool1 = L.Pooling(n.conv1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.fc1 = L.InnerProduct(n.pool1, num_output=32, weight_filler=dict(type="xavier"))
    n.relu1 = L.ReLU(n.fc1, in_place=True)
    n.score = L.InnerProduct(n.relu1, num_output=10, weight_filler=dict(type="xavier"))
    n.loss = L.SoftmaxWithLoss(n.score, n.label)
    return n.to_proto()


for phase, batch in (("train", 50), ("test", 50)):
    with open("lenet_%s.prototxt" % phase, "w") as f:
        f.write(str(lenet(phase + "_lmdb", batch)))

s = caffe.proto.caffe_pb2.SolverParameter()
s.train_net = "lenet_train.prototxt"
s.test_net.append("lenet_test.prototxt")
s.test_interval = 500
s.test_iter.append(4)
s.max_iter = 10000
s.base_lr = 0.05
s.momentum = 0.9
s.lr_policy = "inv"
s.gamma = 0.0001
s.power = 0.75
s.display = 1000
s.snapshot_prefix = "lenet"
s.random_seed = 1
s.solver_mode = caffe.proto.caffe_pb2.SolverParameter.CPU
with open("lenet_solver.prototxt", "w") as f:
    f.write(str(s))

solver = caffe.get_solver("lenet_solver.prototxt")
shapes = [(k, v.data.shape) for k, v in solver.net.blobs.items()]
first = solver.net.forward()["loss"].copy(), solver.test_nets[0].forward()["loss"].copy()
solver.step(1)
tiles = solver.net.params["conv1"][0].diff[:, 0].reshape(3, 4, 3, 3)
tiles = tiles.transpose(0, 2, 1, 3).reshape(3 * 3, 4 * 3)
niter, test_interval = 80, 40
train_loss = np.zeros(niter)
test_acc = np.zeros(niter // test_interval)
output = np.zeros((niter, 8, 10))
for it in range(niter):
    solver.step(1)
    train_loss[it] = solver.net.blobs["loss"].data
    solver.test_nets[0].forward(start="conv1")
    output[it] = solver.test_nets[0].blobs["score"].data[:8]
    if (it + 1) % test_interval == 0:
        correct = 0
        for _ in range(4):
            solver.test_nets[0].forward()
            correct += sum(
                solver.test_nets[0].blobs["score"].data.argmax(1)
                == solver.test_nets[0].blobs["label"].data
            )
        test_acc[it // test_interval] = correct / 200.0
solver.net.save("lenet.caffemodel")
np.savez("run.npz", loss=train_loss, acc=test_acc, output=output, first=first, tiles=tiles)
print("Iteration %d, loss %.3f" % (solver.iter, solver.net.blobs["loss"].data), shapes)

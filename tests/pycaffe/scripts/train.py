"""Trains and prints how long each layer takes: train.py SOLVER ITERATIONS."""

import sys

import caffe

caffe.init_log()
caffe.set_mode_cpu()
caffe.set_solver_count(1)
caffe.set_solver_rank(0)
caffe.set_multiprocess(False)
solver = caffe.SGDSolver(sys.argv[1])
if caffe.has_nccl():
    uid = caffe.NCCL.new_uid()

names = solver.net._layer_names
fprop = [caffe.Timer() for _ in names]
bprop = [caffe.Timer() for _ in names]
total = caffe.Timer()


def show_time():
    if solver.iter % solver.param.display == 0:
        for i, name in enumerate(names):
            print("forw %3d %8s: %.2f" % (i, name, fprop[i].ms))
        for i in range(len(names) - 1, -1, -1):
            print("back %3d %8s: %.2f" % (i, names[i], bprop[i].ms))
        caffe.log("solver total: %.2f" % total.ms)


solver.net.before_forward(lambda layer: fprop[layer].start())
solver.net.after_forward(lambda layer: fprop[layer].stop())
solver.net.before_backward(lambda layer: bprop[layer].start())
solver.net.after_backward(lambda layer: bprop[layer].stop())
solver.add_callback(lambda: total.start(), lambda: (total.stop(), show_time()))
solver.step(int(sys.argv[2]))

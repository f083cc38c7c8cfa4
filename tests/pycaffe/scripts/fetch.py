"""Trains on batches that another process makes: fetch.py [START_METHOD]."""

import multiprocessing
import sys

import caffe

NET = """
layer { name: "input" type: "Python" top: "data" top: "label" python_param {
  module: "fetcher_layers" layer: "FetchedData" param_str: '{"batch": 12, "seed": 5}' } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" }
"""

if __name__ == "__main__":
    if len(sys.argv) > 1:
        multiprocessing.set_start_method(sys.argv[1])
    open("fetch.prototxt", "w").write(NET)
    open("fetch_solver.prototxt", "w").write(
        'net: "fetch.prototxt" base_lr: 0.5 momentum: 0.9 lr_policy: "fixed" random_seed: 2'
    )
    solver = caffe.SGDSolver("fetch_solver.prototxt")
    timer = caffe.Timer()
    timer.start()
    while solver.iter < 30:
        solver.step(10)
    timer.stop()
    print("accuracy", float(solver.net.blobs["accuracy"].data), timer.ms > 0)

"""Merges BatchNorm and Scale into the convolutions before: merge_bn.py NET WEIGHTS MERGED."""

import sys

import caffe
import numpy as np


def merge_bn(net, nob):
    for key in net.params.keys():
        if type(net.params[key]) is caffe._caffe.BlobVec:
            if key.endswith("/bn") or key.endswith("/scale"):
                continue
            conv = net.params[key]
            if key + "/bn" not in net.params:
                for i, w in enumerate(conv):
                    nob.params[key][i].data[...] = w.data
                continue
            bn, scale = net.params[key + "/bn"], net.params[key + "/scale"]
            wt = conv[0].data
            bias = conv[1].data if len(conv) > 1 else np.zeros(wt.shape[0])
            factor = bn[2].data
            if factor != 0:
                factor = 1.0 / factor
            rstd = 1.0 / np.sqrt(bn[1].data * factor + 1e-5)
            by_channel = (rstd * scale[0].data).reshape((wt.shape[0], 1, 1, 1))
            nob.params[key][0].data[...] = wt * by_channel
            shifted = (bias - bn[0].data * factor) * rstd * scale[0].data
            nob.params[key][1].data[...] = shifted + scale[1].data


net = caffe.Net(sys.argv[1], sys.argv[2], caffe.TEST)
nob = caffe.Net(sys.argv[3], caffe.TEST)
merge_bn(net, nob)
x = np.random.RandomState(0).randn(*net.blobs["data"].data.shape)
one, two = (n.forward(data=x)["prob"].copy() for n in (net, nob))
print(np.abs(one - two).max())

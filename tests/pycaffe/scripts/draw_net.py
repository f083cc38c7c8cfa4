"""Draws a net: draw_net.py PROTOTXT IMAGE."""

import sys

import caffe
import caffe.draw
from caffe.proto import caffe_pb2
from google.protobuf import text_format

net = caffe_pb2.NetParameter()
text_format.Merge(open(sys.argv[1]).read(), net)
print("Drawing net to %s" % sys.argv[2])
caffe.draw.draw_net_to_file(net, sys.argv[2], "LR", None, False)

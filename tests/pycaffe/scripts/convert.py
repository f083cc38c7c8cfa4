"""Reads an LMDB and a mean, and rewrites a caffemodel through its message: convert.py."""

import pickle

import caffe
import lmdb
import numpy as np

blob = caffe.proto.caffe_pb2.BlobProto()
blob.ParseFromString(open("mean.binaryproto", "rb").read())
mean = np.array(caffe.io.blobproto_to_array(blob))[0]
np.save("mean_again.npy", mean)

env = lmdb.open("train_lmdb", readonly=True)
total, labels = 0, []
with env.begin() as txn:
    for _, value in txn.cursor():
        datum = caffe.proto.caffe_pb2.Datum()
        datum.ParseFromString(value)
        flat = np.frombuffer(datum.data, dtype=np.uint8)
        x = flat.reshape(datum.channels, datum.height, datum.width)
        assert (x == caffe.io.datum_to_array(datum)).all()
        total = total + x.astype(np.float64)
        labels.append(datum.label)
print(np.abs(total / len(labels) - mean).max() < 1e-4, len(labels))

net = caffe.proto.caffe_pb2.NetParameter()
net.ParseFromString(open("net.caffemodel", "rb").read())
for layer in net.layer:
    for b in layer.blobs:
        shape = list(b.shape.dim)
        b.data[:] = (2 * np.array(b.data, dtype=np.float32).reshape(shape)).flat
open("double.caffemodel", "wb").write(net.SerializeToString())
weights = [
    {k: [b.data for b in v] for k, v in caffe.Net("deploy.prototxt", f, caffe.TEST).params.items()}
    for f in ("net.caffemodel", "double.caffemodel")
]
one, two = pickle.loads(pickle.dumps(weights))
print(all(np.allclose(2 * a, b) for k in one for a, b in zip(one[k], two[k])))

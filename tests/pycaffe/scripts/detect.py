"""Detects in windows that a CSV file lists: detect.py WINDOWS OUTPUT."""

import csv
import sys

import caffe
import numpy as np

COORD_COLS = ["ymin", "xmin", "ymax", "xmax"]

mean = np.load("mean.npy")
if mean.shape[1:] != (1, 1):
    mean = mean.mean(1).mean(1)
detector = caffe.Detector(
    "deploy.prototxt", "net.caffemodel", mean=mean, raw_scale=255.0, context_pad=2
)
windows = {}
with open(sys.argv[1]) as f:
    for row in csv.DictReader(f):
        windows.setdefault(row["filename"], []).append([int(row[c]) for c in COORD_COLS])
load_image, caffe.io.load_image = caffe.io.load_image, lambda f: load_image(f, False)  # grey
detections = detector.detect_windows((name, np.array(w)) for name, w in windows.items())
caffe.io.load_image = load_image
with open(sys.argv[2], "w") as f:
    for d in detections:
        numbers = [*d["window"], *d["prediction"]]
        f.write(d["filename"] + "," + ",".join("%g" % number for number in numbers) + "\n")

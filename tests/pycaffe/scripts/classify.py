"""Classifies the images of a folder: classify.py FOLDER OUTPUT [center]."""

import glob
import sys

import caffe
import numpy as np

caffe.set_mode_cpu()
mean = np.load("mean.npy")
classifier = caffe.Classifier(
    "deploy.prototxt",
    "net.caffemodel",
    image_dims=[12, 12],
    mean=mean,
    input_scale=None,
    raw_scale=255.0,
    channel_swap=[0],
)
images = [caffe.io.load_image(f, False) for f in sorted(glob.glob(sys.argv[1] + "/*.png"))]
print("Classifying %d inputs." % len(images))
predictions = classifier.predict(images, "center" not in sys.argv)
np.save(sys.argv[2], predictions)
best = predictions[0].argsort()[-1:-6:-1]
print("Predicted class is #{}.".format(predictions[0].argmax()), best)

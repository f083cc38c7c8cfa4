"""A folder for sys.path in which ``caffe`` is this package, of which ``caffe_kd run`` makes use."""

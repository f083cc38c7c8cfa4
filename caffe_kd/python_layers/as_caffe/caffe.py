"""What ``import caffe`` finds in the processes that a script of ``caffe_kd run`` starts."""

from caffe_kd.python_layers import user_code

user_code.alias_as_caffe()

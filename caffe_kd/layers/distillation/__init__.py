"""Distillation layers: they compare a student with its teacher, or prepare that.

Caffe's layer catalogue has none; the types are this project's and those of forks.
"""

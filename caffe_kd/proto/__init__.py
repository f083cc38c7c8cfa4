"""Caffe's messages: the schema, text and binary formats, and functions from message to message."""

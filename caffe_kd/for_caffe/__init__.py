"""Converts a composed net for BVLC Caffe: the net in its own types, weights and databases."""

# The first field number of this package's own fields, in messages other than LayerParameter.
FIRST_OWN_FIELD = 51001

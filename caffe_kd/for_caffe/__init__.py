"""What BVLC Caffe trains a composed net with: a net of its own types, weights and databases."""

# In messages other than LayerParameter the fields of this package alone begin here.
FIRST_OWN_FIELD = 51001

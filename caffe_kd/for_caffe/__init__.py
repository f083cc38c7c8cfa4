"""What BVLC Caffe trains a composed net with: a net of its own types, weights and databases."""

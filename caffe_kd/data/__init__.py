"""Record sources (LMDB, IDX, HDF5, memory), the transformer, and the MNIST digits."""

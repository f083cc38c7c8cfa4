"""Sources of samples (LMDB, IDX, HDF5, memory), the transformer, and the MNIST digits."""

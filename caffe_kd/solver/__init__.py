"""The solver: what to train, learning rates, updates, the loop, snapshots."""

"""Structured pruning: removing whole channels, so that the net is smaller for every runtime."""

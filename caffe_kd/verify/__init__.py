"""Comparing a net's blobs with a recording."""

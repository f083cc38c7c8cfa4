"""Experiments of papers, reproduced through prototxt and solver."""

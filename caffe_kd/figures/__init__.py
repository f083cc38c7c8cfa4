"""Figures of samples and of nets' outputs for them, drawn by matplotlib."""

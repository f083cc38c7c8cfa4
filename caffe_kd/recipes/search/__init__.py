"""Searching a solver's best settings on validation samples."""

"""Procedures of several trainings: the quick start, experiments, search, rounds."""

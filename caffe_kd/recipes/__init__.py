"""Procedures of several trainings: the quick start, experiments, search, multiple runs."""

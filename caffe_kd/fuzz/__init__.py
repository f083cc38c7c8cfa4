"""Damaged inputs for every reader, made from good files, each reproducible from its number."""

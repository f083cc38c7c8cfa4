"""Damaged inputs for every reader: made from good files, each repeatable from its number."""

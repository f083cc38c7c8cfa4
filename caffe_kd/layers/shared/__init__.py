"""Layer types: shared."""

"""Layer types: normalization."""

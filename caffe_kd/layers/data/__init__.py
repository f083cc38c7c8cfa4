"""Layer types: data."""

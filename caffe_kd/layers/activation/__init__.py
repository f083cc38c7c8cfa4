"""Layer types: activation."""

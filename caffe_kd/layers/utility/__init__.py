"""Layer types: utility."""

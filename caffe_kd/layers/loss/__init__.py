"""Layer types: loss."""

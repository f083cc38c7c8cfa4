"""Layer types: common."""

"""Layer types: detection."""

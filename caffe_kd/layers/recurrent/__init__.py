"""Layer types: recurrent."""

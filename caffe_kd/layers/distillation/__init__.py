"""Layer types: distillation."""

"""Images made from a trained net alone, for data-free distillation."""

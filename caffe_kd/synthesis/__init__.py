"""Records made from a trained net alone, for distillation without data."""

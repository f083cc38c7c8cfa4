"""Shows what a teacher knows beyond the labels."""

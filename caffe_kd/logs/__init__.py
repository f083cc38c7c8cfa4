"""Writing logs, and reading and drawing them again."""

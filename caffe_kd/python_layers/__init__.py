"""Python code of users: layers of type Python, and modules named by ``-layers``."""

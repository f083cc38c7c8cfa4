"""The search for a solver's settings on validation records."""

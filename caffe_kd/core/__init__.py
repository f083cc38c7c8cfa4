"""What every other room may use: errors, files, memory, example nets."""

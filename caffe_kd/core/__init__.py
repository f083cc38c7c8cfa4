"""What every other room may use: errors, files, memory, multi-tensor arithmetic, example nets."""

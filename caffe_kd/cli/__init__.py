"""The commands, one module each."""

import os

# OpenMP's idle threads sleep instead of spinning. On a machine whose cores are all at work, a
# spinning thread keeps the one it waits for off the core, and training becomes ten times slower.
# It has to be said before torch loads OpenMP; what the user says wins.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

"""Other APIs that clients speak: each turns into the Messages API at the worker's edge, and its answer back."""

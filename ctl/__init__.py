"""The command line: asks the supervisor, knows nothing else."""

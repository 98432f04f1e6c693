"""The daemon: owns the control socket, every listening socket and every worker process."""

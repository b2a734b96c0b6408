"""What operator, replica, client and snapshots do alike: backoff, error details in gRPC calls, and
limits as flags of a command line. Small, without I/O, and below everything else."""

__version__ = "0.1.0"

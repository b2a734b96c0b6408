"""Code that operator, replica, client and snapshots share: backoff, error details in gRPC calls,
and limits as command-line flags. It does no I/O, and imports only `partition_proto`."""

__version__ = "0.1.0"

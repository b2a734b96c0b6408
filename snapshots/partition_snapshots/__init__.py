"""Snapshots of a partition in a store: a directory, or an S3-compatible object store."""

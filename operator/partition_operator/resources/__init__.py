"""Builders of the objects that a Partition consists of, and of the pods that restore snapshots.
Pure: a Partition in, a dict out."""

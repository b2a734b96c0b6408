"""Builders of a Partition's objects, and of the pods that restore and verify snapshots. Pure: a
Partition in, a dict out."""

"""Builders of the objects that a Partition consists of. Pure: a Partition in, a dict out."""

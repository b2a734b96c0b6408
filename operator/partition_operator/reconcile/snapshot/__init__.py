"""The next step of a PartitionSnapshot. Pure."""

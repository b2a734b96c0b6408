"""The next step of a Partition. Pure. One module per concern; `plan` calls them in order."""

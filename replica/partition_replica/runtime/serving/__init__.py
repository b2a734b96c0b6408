"""What applications ask of a replica: appends and sessions, reads, consumers, pinned states."""

"""The requests of applications: appends and sessions, reads, consumers, pinned states."""

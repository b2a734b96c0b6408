"""Scheduled snapshots: when they are due, which are kept, and how the others are deleted. Pure."""

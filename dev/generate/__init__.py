"""Generates the derived files of the repository: `python -m dev.generate`."""

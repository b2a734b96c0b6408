"""Logs of the seed: its layout of directories, import with or without a base, export."""

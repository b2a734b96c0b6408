"""The observed objects, as values. Pure."""

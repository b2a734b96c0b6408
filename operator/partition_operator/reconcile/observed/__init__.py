"""What was observed, as values. Pure."""

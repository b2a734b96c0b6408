"""State and payloads between members: captures of the running state, both sides of a transfer, and
payloads, which are sent before the entries that name them."""

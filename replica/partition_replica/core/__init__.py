"""The pure part: what a proposal may say and what an entry does. No I/O, no clock, no threads."""

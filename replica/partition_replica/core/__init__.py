"""The pure part: the rules for proposals and the effects of entries. No I/O, clock or threads."""

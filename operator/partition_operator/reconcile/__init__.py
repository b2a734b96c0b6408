"""What to do next: from the spec and from what was observed to one safe step. Pure; a package for
each kind of object."""

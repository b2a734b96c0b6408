"""What to do next: from the spec and from what was observed to one safe step. Pure.
`seen` has what was observed. `partition`, `snapshot` and `schedule` each plan for one kind of
key."""

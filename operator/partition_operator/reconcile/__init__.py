"""Plans: from the spec and the observed objects to one safe step. Pure.

`observed` contains the observed values. `partition`, `snapshot` and `schedule` each plan for one
kind of key.
"""

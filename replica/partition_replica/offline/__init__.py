"""`partition-replica`'s commands, each a process that ends: inspection and verification of a
volume, replication on and off, import and export of the seed's directories, stored snapshots.

Most work on a volume that no process serves, under its lock. A serving replica starts some beside
itself, so that they have a GIL of their own and can't take it down: `snapshots.child` for snapshot
jobs, `volume.verification_child`. They see a copy of the state that it captured, and end when it
does. `volume.remote` asks a running replica, `snapshots` a directory or a bucket; nothing else here
talks to a network.

Each takes what it needs as open objects or paths, says how far it is through a callback, and
returns a report; the command line prints it. What makes a volume (import, restore) writes to a new
one only, and leaves it either as it was or complete. Nothing that serves imports this package.
"""

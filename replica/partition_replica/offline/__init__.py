"""The commands of `partition-replica` other than `serve`: they inspect and verify a volume, enable
and disable replication, import and export logs of directories, and work on stored snapshots.

Most commands lock a volume that no replica serves. A serving replica starts snapshot jobs
(`snapshots.child`) and verifications (`volume.verification_child`) as child processes. These have a
GIL of their own, and their failures do not end the replica. They read a copy of the state that the
replica captured, and exit when the replica exits. `volume.remote` calls a running replica, and
`snapshots` accesses a directory or a bucket. No other module here uses the network.

A command takes open objects or paths, reports its progress to a callback, and returns a report that
the command line prints. An import or a restore writes to a new volume only, and leaves it either
unchanged or complete. The serving replica does not import this package.
"""

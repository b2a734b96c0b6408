"""What is on the volume: the log and the state in LMDB, blobs as files; and the in-memory
references of the same ports (`memory`, `memory_log`). Everything that is fsynced is fsynced here.

A failed write, commit or fsync raises StorageFailed, which ends the process: nothing after one can
be trusted. docs/on_disk_format.md describes every byte.
"""

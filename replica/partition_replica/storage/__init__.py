"""The data on the volume: the log and the state in LMDB, blobs as files. Also the in-memory
reference implementations of the same ports (`memory`, `memory_log`). Every fsync is called here.

A failed write, commit or fsync raises StorageFailed, which ends the process, because nothing after
it can be trusted. docs/on_disk_format.md describes every byte.
"""

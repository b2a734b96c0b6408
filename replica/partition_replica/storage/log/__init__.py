"""The log in LMDB: each Raft Ready is one transaction and one durable commit.

One class per concern, each derived from the previous one: `reading` (open, check, read),
`retention` (positions, compaction), `conversion` (replication on and off), `lmdb_log` (the writes
of Raft and of a standalone log). `tables` reads and writes the rows. `core.ports.LogStorage` is the
contract, and `storage.memory_log` its reference implementation.
"""

from partition_replica.storage.log.lmdb_log import LmdbLog

__all__ = ["LmdbLog"]

"""The log in LMDB: a whole Raft Ready is one transaction and one durable commit.

A class a concern, each on top of the one before: `reading` (open, check, read), `retention`
(positions, compaction), `conversion` (replication on and off), `lmdb_log` (Raft's and a standalone
log's writes). The rules stand there, the rows in `tables`. `core.ports.LogStorage` is the contract,
`storage.memory_log` its reference.
"""

from partition_replica.storage.log.lmdb_log import LmdbLog

__all__ = ["LmdbLog"]

"""The log in LMDB, with a journal in front of it. Each Raft Ready is one durable commit: a record
of the journal, or a transaction of the tables.

One class per concern, each derived from the previous one: `reading` (open, check, read),
`journaled` (what the journal gets, and when the tables take it over), `retention` (positions,
compaction), `conversion` (replication on and off), `recovering` (a lost quorum), `lmdb_log` (the
writes of Raft and of a standalone log). `tables` reads and writes the rows, `journal` the journal's
file. `checks` has Raft's rules for writes. `core.ports.LogStorage` is the contract, but for
recoveries, and `storage.memory_log` its reference implementation.
"""

from partition_replica.storage.log.lmdb_log import LmdbLog

__all__ = ["LmdbLog"]

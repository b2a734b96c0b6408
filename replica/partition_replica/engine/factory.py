"""Chooses the engine for a log."""

from partition_replica.core.ports import EntryReader
from partition_replica.engine.port import Engine, EngineSettings, SnapshotSource
from partition_replica.engine.raft import RaftEngine
from partition_replica.engine.standalone import StandaloneEngine
from partition_replica.ids import LSN


def make_engine(
    log: EntryReader, applied: LSN, settings: EngineSettings, source: SnapshotSource
) -> Engine:
    """Returns a RaftEngine for a replicated log, a StandaloneEngine for a standalone log. Raises
    partition_raft.InvalidConfig if the log contradicts itself."""
    member = log.identity.member_id
    if log.identity.standalone:
        return StandaloneEngine(
            member, log, applied, uncommitted_bytes_max=settings.uncommitted_bytes_max
        )
    return RaftEngine(member, log, applied, settings, source)

"""What the engine takes for committed when it starts on what a crash left."""

from pathlib import Path

import pytest
from partition_replica.core.model import Configuration, HardState, LogBatch, LogEntry
from partition_replica.engine.port import EngineSettings
from partition_replica.engine.raft import RaftEngine
from partition_replica.ids import LSN, ClusterID, MemberID, Term
from partition_replica.storage.log import LmdbLog

OWN, OTHER = MemberID(7), MemberID(8)
SETTINGS = EngineSettings(10, 1, 1 << 20, 1 << 20)


@pytest.mark.parametrize(
    ("saved", "as_of", "applied", "committed"),
    [(3, 1, 3, 3), (3, 1, 4, 4), (3, 5, 4, 5), (6, 5, 4, 6), (3, 9, 4, 6)],
)
def test_a_saved_configuration_was_committed(
    tmp_path: Path, saved: int, as_of: int, applied: int, committed: int
) -> None:
    """Else a sole voter that ended between saving its second one and applying that would wait for a
    voter who waits for a snapshot, which can't be taken before the change is applied."""
    log = LmdbLog(tmp_path / "log", OWN, lambda _: [])
    log.bootstrap(ClusterID("c"), Configuration((OWN,)))
    entries = [LogEntry(LSN(index), Term(1), 0, b"") for index in range(2, 7)]
    log.commit(LogBatch(entries, HardState(Term(1), OWN, LSN(saved))))
    if as_of > 1:
        log.save_configuration(LSN(as_of), Configuration((OWN, OTHER)))
    engine = RaftEngine(OWN, log, LSN(applied), SETTINGS, lambda *_: None)
    assert engine.status().commit == committed
    log.close()

"""Volumes of a voter whose group has lost its quorum, with a tail that may not be committed."""

from collections.abc import Iterable
from pathlib import Path

from partition_proto.v1 import types_pb2 as types
from partition_replica.core.model import (
    Configuration,
    HardState,
    LogBatch,
    LogEntry,
    Position,
    RecoveryStep,
)
from partition_replica.core.ports import FIRST
from partition_replica.engine.entries import change_entry
from partition_replica.engine.port import ChangeKind
from partition_replica.ids import LSN, ClusterID, MemberID, SessionID, Term
from partition_replica.recovery import steps
from partition_replica.storage.volume import Volume

from tests.support.proposals import body, opening, proposal, set_key
from tests.support.seed_logs import open_volume

OLD = ClusterID("00000000-0000-4000-8000-00000000000a")
NEW = ClusterID("00000000-0000-4000-8000-00000000000b")
OTHERS = (21, 22)
TERM = Term(7)
APPLIED, COMMITTED, LAST = LSN(5), LSN(6), LSN(9)
SESSION = 2
"""Its ID: the LSN of the entry that opens it."""


def normal(index: int, data: types.EntryBody) -> LogEntry:
    return LogEntry(LSN(index), Term(6), 0, data.SerializeToString())


def writes(first: int, last: int) -> list[LogEntry]:
    """Entries that set one key each: k<LSN>."""
    return [
        normal(n, body(proposal(SESSION, n, [set_key(b"k%d" % n, b"v%d" % n)])))
        for n in range(first, last + 1)
    ]


def change(index: int, kind: ChangeKind, member: int, address: str = "") -> LogEntry:
    return change_entry(LSN(index), Term(6), kind, member, address)


def make(
    data: Path,
    *,
    tail: Iterable[LogEntry] = (),
    configuration: Configuration | None = None,
    history: str = "",
) -> Volume:
    """An open volume of a voter with two others. It has applied entries up to APPLIED, knows that
    those up to COMMITTED are committed, and has more up to LAST: `tail`, or writes. configuration:
    as of LSN 1."""
    volume = open_volume(data)
    own = volume.log.identity.member_id
    addresses = {own: "here:1"} | {other: f"there:{other}" for other in OTHERS}
    volume.state.start(FIRST, addresses)
    voters = configuration or Configuration(voters=(own, *OTHERS))
    volume.log.bootstrap(OLD, voters)
    entries = [normal(2, opening()), *writes(3, COMMITTED), *(tail or writes(COMMITTED + 1, LAST))]
    volume.log.commit(LogBatch(entries, HardState(TERM, MemberID(OTHERS[0]), COMMITTED)))
    volume.state.apply(entries[: APPLIED - 1], {})
    if history:
        volume.state.renew_history(history)
    assert volume.log.last == Position(LAST, Term(6))
    return volume


def values(volume: Volume) -> dict[bytes, bytes]:
    return dict(volume.state.list_values(b"", b"", 1000, 1 << 30)[0])


def assert_recovered(data: Path, *, others: int = len(OTHERS)) -> None:
    """The stopped volume is the sole voter's of NEW, and has every write up to LAST."""
    volume = open_volume(data)
    try:
        log, own = volume.log, volume.log.identity.member_id
        last = LAST + steps.EXPIRING_ENTRIES + others
        assert log.identity.cluster_id == NEW
        assert log.configuration == (last, Configuration(voters=(own,)))
        assert log.hard_state == HardState(Term(TERM + steps.TERM_JUMP), MemberID(0), last)
        assert log.last.index == log.committed == volume.state.applied.index == last
        assert volume.states.history_of(volume.state) == NEW
        assert values(volume) == {b"k%d" % n: b"v%d" % n for n in range(3, LAST + 1)}
        assert volume.state.members() == {own: "here:1"}
        row, _ = volume.state.get_session(SessionID(SESSION), 1)
        assert row is None or row.expired(volume.state.clock_ms)
        assert log.recovery is not None
        assert (log.recovery.step, log.recovery.last.index) == (RecoveryStep.COMPLETE, LAST)
    finally:
        volume.close()

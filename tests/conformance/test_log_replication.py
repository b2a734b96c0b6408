"""Both logs while replication is switched on or off, and when a snapshot or a restored state
replaces their entries."""

import threading
from pathlib import Path

import pytest
from partition_replica.core.compaction import LogRetention
from partition_replica.core.model import (
    Configuration,
    InitStatus,
    LogBatch,
    LogEntry,
    StateSwitch,
)
from partition_replica.errors import Compacted, Damaged
from partition_replica.ids import LSN, MemberID, Term
from partition_replica.storage.log import LmdbLog

from tests.support.log_subjects import position
from tests.support.log_subjects import subject as subject  # a fixture
from tests.support.logs import CLUSTER, MEMBER, Subject, entry, hard

# --- replication on and off -------------------------------------------------------------------


def test_backfill_goes_on_where_it_was(subject: Subject) -> None:
    subject.plain(10)
    with pytest.raises(ValueError, match="backfill"):
        subject.log.step_backfill(1)
    first = subject.log.begin_backfill()
    assert (first.term, first.first, first.next, first.target) == (1, 1, 1, 10)
    assert subject.log.step_backfill(4).next == 5
    assert subject.terms() == [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    with pytest.raises(ValueError, match="backfill"):
        subject.log.finish_backfill(position(10, 1))
    assert subject.reopen(0) == InitStatus.NEEDS_BACKFILL
    # What is written meanwhile has its metadata at once.
    subject.log.append(None, [b"11"])
    assert subject.log.begin_backfill().next == 5
    subject.backfill(11)
    assert subject.terms() == [1] * 11
    assert subject.log.boundary == position(11, 1)
    assert subject.log.hard_state == hard(1, 0, 11)
    subject.log.commit(LogBatch([entry(1, 12)]))


def test_backfilled_terms_never_fall(subject: Subject) -> None:
    """Entries keep the terms they have; the others' is above every term that was saved."""
    subject.log.join(CLUSTER)
    rows = [entry(2, 1), entry(5, 2), entry(5, 3)]
    subject.log.commit(LogBatch(rows, hard(8, 3, 1)))
    subject.log.save_configuration(LSN(0), Configuration(voters=(MEMBER,)))
    subject.log.disable_replication()
    assert subject.log.hard_state.commit == 3
    subject.log.append(None, [b"4"])
    subject.initialize(0)
    subject.backfill(2)
    assert subject.terms() == [2, 5, 5, 9]
    assert subject.log.boundary == position(2, 5)
    assert subject.log.hard_state == hard(9, 0, 4)
    assert [e.term for e in subject.log.entries(LSN(3), LSN(5), None)] == [5, 9]


def test_backfill_needs_something_applied(subject: Subject) -> None:
    subject.plain(2)
    subject.initialize(0)
    progress = subject.log.begin_backfill()
    while not progress.complete:
        progress = subject.log.step_backfill(10)
    with pytest.raises(ValueError, match="applied"):
        subject.log.finish_backfill(position(0, 1))
    subject.log.finish_backfill(position(1, 1))


def with_terms(subject: Subject, terms: list[int]) -> None:
    """A standalone log whose entries have these terms, 0 for none, and no hard state, as an
    import's."""
    subject.log.bootstrap_standalone(CLUSTER)
    rows = [entry(term, index) for index, term in enumerate(terms, 1)]
    if isinstance(subject.log, LmdbLog):
        with subject.log.environment.begin(write=True) as txn:
            subject.log.tables.put(txn, rows, Term(0))
    else:
        subject.log._rows.update({int(row.index): row for row in rows})  # type: ignore[attr-defined]
    subject.reopen()


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_backfilled_terms_do_not_fall_behind_the_boundary(subject: Subject, steps: int) -> None:
    """Which moved there before its entry had a term."""
    with_terms(subject, [5, 5, 0, 0, 0, 7, 0])
    subject.retention = subject.log.retention = LogRetention(keep_all=True)  # type: ignore[attr-defined]
    subject.initialize(4)
    subject.log.compact(LSN(4))
    assert subject.log.boundary == position(4, 0)
    progress = subject.log.begin_backfill()
    while not progress.complete:
        progress = subject.log.step_backfill(steps)
        # Wherever it is cut off, it goes on.
        assert subject.reopen(4) == InitStatus.NEEDS_BACKFILL
    assert subject.terms() == [5, 5, 5, 5, 5, 7, 8]
    assert subject.log.boundary == position(4, 5)
    subject.backfill(4)
    assert subject.log.boundary == position(4, 5)
    assert subject.reopen(4) == InitStatus.BOOTSTRAPPED


def test_a_log_is_compacted_while_it_is_backfilled(subject: Subject) -> None:
    """Its boundary has a term, and there is no hard state before the end."""
    subject.plain(6)
    subject.initialize(0)
    subject.log.begin_backfill()
    subject.log.step_backfill(4)
    subject.apply(3)
    assert subject.log.boundary == position(3, 1)
    assert subject.reopen(5) == InitStatus.NEEDS_BACKFILL
    subject.backfill(5)
    assert subject.log.boundary == position(5, 1)
    assert subject.log.last == position(6, 1)


def test_an_empty_log_is_backfilled_behind_its_first_entry(subject: Subject) -> None:
    """Also one that was begun before: nothing but an entry is missing."""
    subject.log.bootstrap_standalone(CLUSTER)
    subject.initialize(0)
    assert subject.log.begin_backfill().complete
    with pytest.raises(ValueError, match="applied"):
        subject.log.finish_backfill(subject.log.backfilled_position(LSN(0)))
    assert subject.reopen(0) == InitStatus.NEEDS_BACKFILL
    subject.log.append(LSN(1), [b""])
    subject.backfill(1)
    # As a group's log begins.
    assert subject.log.boundary == subject.log.last == position(1, 1)
    assert subject.log.hard_state == hard(1, 0, 1)
    assert subject.log.configuration == (1, Configuration(voters=(MEMBER,)))
    assert subject.reopen(1) == InitStatus.BOOTSTRAPPED
    subject.log.commit(LogBatch([entry(1, 2, b"a")], hard(1, 0, 2)))


def test_holding_for_a_snapshot_waits_for_no_commit(tmp_path: Path) -> None:
    """The event loop does that, and the lock is held through an fsync."""
    subject = Subject(tmp_path / "log")
    subject.plain(3)
    subject.initialize(0)
    holding = threading.Thread(target=subject.log.hold, args=([LSN(2)],), daemon=True)
    with subject.log._writing:  # type: ignore[attr-defined]
        holding.start()
        holding.join(10)
        assert not holding.is_alive()
        assert subject.log.positions["snapshot"] == 2
    subject.log.close()


def test_the_operators_token_never_falls(subject: Subject) -> None:
    subject.log.save_fencing_token(6, "b")
    subject.log.save_fencing_token(6, "b")
    with pytest.raises(ValueError, match="fencing token"):
        subject.log.save_fencing_token(5, "a")
    for _ in range(2):
        assert subject.log.fencing_token == 6
        subject.reopen()


@pytest.mark.parametrize(
    "configuration",
    [
        Configuration(voters=(7, 8)),
        Configuration(voters=(8,)),
        Configuration(voters=(7,), learners=(8,)),
        Configuration(voters=(7,), voters_outgoing=(7, 8)),
    ],
)
def test_only_a_sole_voter_stops_replication(
    subject: Subject, configuration: Configuration
) -> None:
    subject.log.join(CLUSTER)
    subject.log.commit(LogBatch([entry(1, 1)], hard(1, 0, 1)))
    subject.log.save_configuration(LSN(1), configuration)
    with pytest.raises(ValueError, match="sole voter"):
        subject.log.disable_replication()
    assert not subject.log.identity.standalone


def test_a_change_on_its_way_stops_no_replication(subject: Subject) -> None:
    subject.log.join(CLUSTER)
    subject.log.commit(LogBatch([entry(1, 1), LogEntry(LSN(2), Term(1), 2, b"")], hard(1, 0, 1)))
    subject.log.save_configuration(LSN(1), Configuration(voters=(MEMBER,)))
    with pytest.raises(ValueError, match=r"changes the configuration|change of"):
        subject.log.disable_replication()


def test_a_snapshot_replaces_everything(subject: Subject) -> None:
    subject.log.join(CLUSTER)
    subject.log.commit(LogBatch([entry(1, 1), entry(1, 2)], hard(1, 0, 1)))
    subject.initialize(1)
    switch = StateSwitch(position(50, 3), Configuration((1, 2)), 4)
    subject.log.commit(LogBatch(snapshot=switch))
    for _ in range(2):
        assert subject.bounds() == (51, 50)
        assert subject.log.last == subject.log.boundary == position(50, 3)
        assert subject.log.identity.state_generation == 4
        assert subject.log.configuration == (50, Configuration((1, 2)))
        assert subject.log.hard_state == hard(3, 0, 50)
        assert subject.log.first_stored == 51
        subject.reopen(50)
    subject.log.commit(LogBatch([entry(3, 51)]))
    assert subject.log.last == position(51, 3)
    assert subject.log.identity.member_id == MemberID(7)


# --- a log that begins behind a state that was taken over ----------------------------------------


def test_a_group_begins_behind_a_restored_state(subject: Subject) -> None:
    voters = Configuration(voters=(MEMBER,))
    for wrong in (position(0, 1), position(5, 0)):
        with pytest.raises(ValueError, match=r"\(1, 1\)"):
            subject.log.bootstrap(CLUSTER, voters, wrong)
    subject.log.bootstrap(CLUSTER, voters, position(40, 3))
    with pytest.raises(ValueError, match="new"):
        subject.log.bootstrap(CLUSTER, voters, position(41, 3))
    for reopened in (False, True):
        if reopened:
            assert subject.reopen(40) == InitStatus.BOOTSTRAPPED
        log = subject.log
        assert log.identity.cluster_id == CLUSTER
        assert log.boundary == log.last == position(40, 3)
        assert (log.first_stored, log.committed, log.term(LSN(40))) == (41, 40, 3)
        assert log.hard_state == hard(3, 0, 40)
        assert log.configuration == (40, voters)
        assert log.low_water_mark == 41
    with pytest.raises(Compacted):
        subject.log.entries(LSN(40), LSN(41), None)
    with pytest.raises(Damaged, match="the state is at LSN 39"):
        subject.reopen(39)
    subject.reopen(40)
    subject.log.commit(LogBatch([entry(4, 41, b"a")], hard(4, MEMBER, 41)))
    assert subject.indexes() == [41]


@pytest.mark.parametrize("term", [0, 6])
def test_a_standalone_log_begins_behind_a_restored_state(subject: Subject, term: int) -> None:
    subject.log.bootstrap_standalone(CLUSTER, position(40, term))
    with pytest.raises(ValueError, match="new"):
        subject.log.bootstrap_standalone(CLUSTER)
    for reopened in (False, True):
        if reopened:
            assert subject.reopen(40) == InitStatus.NEEDS_BACKFILL
        log = subject.log
        assert log.identity.standalone
        assert log.boundary == log.last == position(40, term)
        assert (log.first_stored, log.committed) == (41, 40)
        assert log.configuration == (40, Configuration(voters=(MEMBER,)))
        assert log.hard_state == hard(term, 0, 40 if term else 0)
    assert subject.log.append(LSN(41), [b"a", b"b"]) == 41
    with pytest.raises(ValueError, match="truncation"):
        subject.log.truncate_from(LSN(40))
    assert subject.reopen(42) == InitStatus.NEEDS_BACKFILL
    subject.backfill(42)
    # Terms go on from the one before, so that they never fall.
    assert subject.log.last == position(42, term + 1)
    assert subject.reopen(42) == InitStatus.BOOTSTRAPPED


def test_a_standalone_log_without_entries_behind_a_restored_state_is_backfilled(
    subject: Subject,
) -> None:
    subject.log.bootstrap_standalone(CLUSTER, position(40, 0))
    subject.reopen(40)
    subject.backfill(40)
    assert subject.reopen(40) == InitStatus.BOOTSTRAPPED
    assert subject.log.boundary == subject.log.last == position(40, 1)
    subject.log.commit(LogBatch([entry(1, 41, b"a")], hard(1, 0, 41)))
    assert subject.indexes() == [41]

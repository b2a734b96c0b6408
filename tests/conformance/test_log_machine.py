"""LMDB's log against the reference: hypothesis draws what is done, and both must answer alike and
hold the same after each step, over restarts, too."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from partition_proto.v1 import types_pb2 as types
from partition_replica.core.compaction import LogRetention
from partition_replica.core.model import (
    Configuration,
    LogBatch,
    LogEntry,
    Position,
    StateSwitch,
)
from partition_replica.core.ports import LogStorage
from partition_replica.errors import ReplicaError
from partition_replica.ids import LSN, Digest, Term
from partition_replica.storage.log.journal import JournalLimits

from tests.support.logs import CLUSTER, MEMBER, SMALL_JOURNAL, Subject, hard
from tests.support.proposals import body, link, payload, proposal

BLOBS = [payload(bytes([n]) * 70_000) for n in range(3)]
BODIES = [b"", b"small"] + [
    body(proposal(1, 1, [link(b"a")], [blob])).SerializeToString() for blob in BLOBS
]
SHARED_MEMORY = "/dev/shm"
NAMES = st.sampled_from(["one", "two", "Bad"])
STEP = st.integers(-3, 3)


class LogMachine(RuleBasedStateMachine):
    """Two subjects, one script."""

    def __init__(self) -> None:
        super().__init__()
        # In memory where there is such a place: durability is not what is compared here.
        place = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
        self.root = Path(tempfile.mkdtemp(prefix="log-machine-", dir=place))
        self.model: Subject
        self.real: Subject

    @initialize(
        trail=st.sampled_from([0, 2, 20]),
        trail_bytes=st.sampled_from([0, 60, 300, 1 << 62]),
        lag=st.sampled_from([6, 1 << 62]),
        journal=st.sampled_from([None, SMALL_JOURNAL]),
    )
    def begin(self, trail: int, trail_bytes: int, lag: int, journal: JournalLimits | None) -> None:
        retention = LogRetention(
            trail_entries=trail, trail_bytes=trail_bytes, consumer_lag_entries_max=lag
        )
        self.model = Subject(None, retention)
        self.real = Subject(self.root / "log", retention, journal)
        self.both(lambda subject: subject.initialize(0))

    def both(self, call: Callable[[Subject], Any]) -> Any:
        """Both give the same, or refuse by the same kind of error."""
        answers = []
        for subject in (self.model, self.real):
            try:
                answers.append(("ok", call(subject)))
            except (ReplicaError, ValueError, KeyError) as error:
                answers.append((type(error).__name__, None))
        assert answers[0] == answers[1]
        return answers[0][1]

    def at(self, offset: int) -> LSN:
        return LSN(max(0, self.model.log.last.index + offset))

    # --- writes ---

    @rule(
        start=st.integers(-3, 2),
        term=st.integers(-1, 2),
        bodies=st.lists(st.sampled_from(BODIES), max_size=4),
        state=st.none() | st.tuples(st.integers(-1, 1), STEP),
        kind=st.sampled_from([0, 0, 0, 1]),
    )
    def commit(
        self,
        start: int,
        term: int,
        bodies: list[bytes],
        state: tuple[int, int] | None,
        kind: int,
    ) -> None:
        log = self.model.log
        plain = log.identity.standalone
        its_term = Term(0) if plain and term < 2 else Term(max(0, log.last.term + term))
        first = self.at(start)
        rows = [
            LogEntry(LSN(first + n), its_term, kind, data, b"context" if kind else b"")
            for n, data in enumerate(bodies)
        ]
        saved = log.hard_state
        wanted = state and hard(
            max(0, max(saved.term, its_term) + state[0]),
            saved.vote,
            max(0, min(saved.commit + state[1], first + len(rows))),
        )
        if rows and its_term and not max(saved.term, wanted.term if wanted else 0):
            return  # Raft saves a term before, or with, its first entry
        self.both(lambda subject: subject.log.commit(LogBatch(list(rows), wanted)))

    @rule(
        offset=st.none() | st.integers(0, 2), bodies=st.lists(st.sampled_from(BODIES), max_size=4)
    )
    def append(self, offset: int | None, bodies: list[bytes]) -> None:
        expected = None if offset is None else self.at(offset)
        self.both(lambda subject: subject.log.append(expected, bodies))

    @rule(offset=STEP)
    def truncate(self, offset: int) -> None:
        lsn = LSN(max(1, self.at(offset)))
        self.both(lambda subject: subject.log.truncate_from(lsn))

    @rule(ahead=st.integers(1, 5), term=st.integers(0, 2))
    def snapshot(self, ahead: int, term: int) -> None:
        if self.model.log.identity.standalone:
            return
        last = self.model.log.last
        switch = StateSwitch(
            Position(LSN(last.index + ahead), Term(max(1, last.term + term))),
            Configuration(voters=(MEMBER,)),
            self.model.log.identity.state_generation + 1,
        )
        self.both(lambda subject: subject.log.commit(LogBatch(snapshot=switch)))

    @rule(offset=STEP, sole=st.booleans())
    def configuration(self, offset: int, sole: bool) -> None:
        voters = (MEMBER,) if sole else (MEMBER, 9)
        index = LSN(max(0, self.model.log.configuration[0] + offset))
        self.both(lambda s: s.log.save_configuration(index, Configuration(voters=voters)))

    # --- positions, retention ---

    @rule(name=NAMES, offset=STEP)
    def register(self, name: str, offset: int) -> None:
        lsn = self.at(offset)
        self.both(lambda subject: subject.log.register(name, lsn))

    @rule(name=NAMES)
    def unregister(self, name: str) -> None:
        self.both(lambda subject: subject.log.unregister(name))

    @rule(name=st.sampled_from(["applied", "one", "two"]), offset=STEP)
    def acknowledge(self, name: str, offset: int) -> None:
        lsn = self.at(offset)
        self.both(lambda subject: subject.log.acknowledge(name, lsn))

    @rule(offsets=st.lists(STEP, max_size=3))
    def hold(self, offsets: list[int]) -> None:
        lsns = [self.at(offset) for offset in offsets]
        self.both(lambda subject: subject.log.hold(lsns))

    @rule(blob=st.sampled_from(BLOBS), size=st.integers(0, 100))
    def weigh(self, blob: types.Payload, size: int) -> None:
        digest = Digest(blob.digest)
        lsn = self.both(lambda subject: subject.log.last_naming(digest))
        if lsn is not None and lsn <= self.model.log.positions.get("applied", 0):
            self.both(lambda subject: subject.log.weigh(lsn, digest, size))

    @rule(step=st.integers(0, 3))
    def compact(self, step: int) -> None:
        target = self.both(lambda subject: subject.log.compaction_target(step))
        if target is not None:
            self.both(lambda subject: subject.log.compact(target))

    @rule(rows=st.integers(1, 5))
    def prune(self, rows: int) -> None:
        self.both(lambda subject: subject.log.prune(rows))

    # --- restarts, replication ---

    @rule(back=st.integers(0, 4))
    def reopen(self, back: int) -> None:
        applied = max(0, self.model.log.last.index - back)
        self.both(lambda subject: subject.reopen(applied))
        assert self.model.told == self.real.told

    @rule(back=st.integers(0, 4), journal=st.sampled_from([None, SMALL_JOURNAL]))
    def killed(self, back: int, journal: JournalLimits | None) -> None:
        """The next process has the journal that this one left, and may go on without one."""
        self.real.kill()
        self.real.journal = journal
        self.reopen(back)

    @rule()
    def checkpoint(self) -> None:
        self.both(lambda subject: subject.log.checkpoint())

    @rule()
    def join(self) -> None:
        if not self.model.log.identity.cluster_id:
            self.both(lambda subject: subject.log.join(CLUSTER))

    @rule()
    def bootstrap_standalone(self) -> None:
        if not self.model.log.identity.cluster_id and not self.model.log.last.index:
            self.both(lambda subject: subject.log.bootstrap_standalone(CLUSTER))

    @rule()
    def disable_replication(self) -> None:
        self.both(lambda subject: subject.log.disable_replication())

    @rule()
    def begin_backfill(self) -> None:
        self.both(lambda subject: subject.log.begin_backfill())

    @rule(rows=st.integers(1, 4))
    def step_backfill(self, rows: int) -> None:
        self.both(lambda subject: subject.log.step_backfill(rows))

    @rule(back=st.integers(0, 2))
    def finish_backfill(self, back: int) -> None:
        def finish(log: LogStorage) -> None:
            applied = LSN(max(0, log.last.index - back))
            log.finish_backfill(log.backfilled_position(applied))

        self.both(lambda subject: finish(subject.log))

    # --- what holds ---

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "real"):
            return
        model, real = self.model.log, self.real.log
        for name in (
            "identity",
            "status",
            "boundary",
            "first_stored",
            "last",
            "committed",
            "hard_state",
            "configuration",
            "backfill",
            "positions",
            "low_water_mark",
        ):
            assert getattr(real, name) == getattr(model, name), name
        assert self.real.rows() == self.model.rows()
        assert self.real.told == self.model.told
        for blob in BLOBS:
            digest = Digest(blob.digest)
            assert real.names_blob(digest) == model.names_blob(digest)
            assert real.last_naming(digest) == model.last_naming(digest)

    @invariant()
    def whole(self) -> None:
        """What no log may ever be."""
        if not hasattr(self, "real"):
            return
        log, rows = self.real.log, self.real.rows()
        assert [row.index for row in rows] == list(range(log.first_stored, log.last.index + 1))
        assert log.first_stored <= log.boundary.index + 1
        if not log.identity.standalone:
            above = [row.term for row in rows if row.index > log.boundary.index]
            assert above == sorted(above)
            assert all(above)
            if rows:
                assert log.hard_state.commit <= log.last.index

    def teardown(self) -> None:
        if hasattr(self, "real"):
            self.real.log.close()
        shutil.rmtree(self.root, ignore_errors=True)


LogMachine.TestCase.settings = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "120")),
    stateful_step_count=40,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
TestLogMachine = LogMachine.TestCase

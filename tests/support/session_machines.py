"""Either state machine, memory or LMDB, as entries of sessions see it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from partition_proto.v1 import types_pb2 as types
from partition_replica.core.apply import apply_body
from partition_replica.core.model import Applied, LogEntry, Session
from partition_replica.core.sessions import content_digest
from partition_replica.ids import LSN, SessionID, Term
from partition_replica.storage.memory import MemoryView
from partition_replica.storage.state import LmdbState

from tests.support import proposals
from tests.support.proposals import set_key

A, B = 1 << 40, 1 << 50
"""Session IDs."""


def opening(
    session: int, *, elapsed_ms: int = 0, ttl_ms: int = 10_000, time_ms: int = 0
) -> types.EntryBody:
    found = types.OpenSession(session_id=session, time_to_live_ms=ttl_ms)
    return types.EntryBody(open_session=found, elapsed_ms=elapsed_ms, time_ms=time_ms)


def writing(
    session: int,
    sequence: int,
    value: bytes = b"v",
    *,
    below: int = 1,
    elapsed_ms: int = 0,
    time_ms: int = 0,
    term: int = 3,
    precondition: types.Precondition | None = None,
) -> types.EntryBody:
    proposal = proposals.proposal(
        session,
        sequence,
        [set_key(b"k", value)],
        below=below,
        preconditions=[precondition] if precondition else [],
    )
    return types.EntryBody(
        proposal=proposal,
        elapsed_ms=elapsed_ms,
        time_ms=time_ms,
        term=term,
        content_digest=content_digest(proposal),
    )


class Machine:
    """Either state machine."""

    def __init__(self, folder: Path | None) -> None:
        self._index = 0
        self.memory = MemoryView()
        self.lmdb = LmdbState(folder) if folder else None

    def apply(self, *bodies: types.EntryBody) -> list[Applied]:
        entries = []
        for body in bodies:
            self._index += 1
            entries.append(LogEntry(LSN(self._index), Term(9), 0, body.SerializeToString()))
        if self.lmdb is not None:
            return self.lmdb.apply(entries, {})[0]
        return [
            apply_body(self.memory, entry.index, entry.term, body)
            for entry, body in zip(entries, bodies, strict=True)
        ]

    def kinds(self, *bodies: types.EntryBody) -> list[str]:
        return [applied.kind for applied in self.apply(*bodies)]

    def value(self) -> bytes | None:
        return self.lmdb.get_value(b"k")[0] if self.lmdb else self.memory.get_value(b"k")

    @property
    def clock_ms(self) -> int:
        return self.lmdb.clock_ms if self.lmdb else self.memory.clock_ms

    def session(self, session: int) -> Session | None:
        if self.lmdb:
            return self.lmdb.get_session(SessionID(session), 1)[0]
        return self.memory.get_session(SessionID(session))

    def count(self) -> int:
        return self.lmdb.session_count() if self.lmdb else self.memory.session_count()


@pytest.fixture(params=["memory", "lmdb"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    found = Machine(tmp_path / "state" if request.param == "lmdb" else None)
    yield found
    if found.lmdb:
        found.lmdb.close()

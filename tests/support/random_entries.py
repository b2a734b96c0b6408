"""Random bodies of entries that touch the same few names again and again: sessions that expire,
close and come back, sequences that repeat, rise and fall, trees, links, payloads, long names."""

import random
from collections.abc import Callable, Iterator

from partition_proto.v1 import types_pb2 as types
from partition_replica.core.sessions import content_digest

from tests.support.proposals import (
    copy,
    delete_key,
    link,
    mkdir,
    opening,
    payload,
    proposal,
    remove,
    set_key,
)

_DEEP = b"p" * 200 + b"/" + b"q" * 200
PATHS = [b"a", b"a/b", b"a/b/c", b"a-b", b"d", b"d/e", b"p" * 200, _DEEP, _DEEP + b"/" + b"r" * 200]
KEYS = [b"k", b"k1", b"\xff", b"k" * 510, b"k" * 511, b"k" * 1200, b"k" * 511 + b"z" * 600]
BLOBS = [types.Payload(digest=bytes([n]) * 32, size=70_000 + n, mode=0o600) for n in range(3)]
PAYLOADS = [payload(b"one"), payload(b"two", 0o700), payload(b""), *BLOBS]
SESSIONS = range(1, 5)


class RandomEntries:
    """An endless series of bodies; None is an entry without data."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._next = dict.fromkeys(SESSIONS, 1)

    def __iter__(self) -> Iterator[types.EntryBody | None]:
        for session in SESSIONS:
            yield self._opening(session)
        while True:
            yield self._body()

    def _body(self) -> types.EntryBody | None:
        draw, session = self._random.random(), self._random.choice(SESSIONS)
        if draw < 0.02:
            return None
        if draw < 0.05:
            return types.EntryBody(time_ms=5)
        if draw < 0.15:
            return self._opening(session)
        if draw < 0.19:
            return types.EntryBody(close_session=types.CloseSession(session_id=session))
        if draw < 0.24:
            imported = types.ImportedEntry(operations=self._operations(), payloads=PAYLOADS)
            return types.EntryBody(imported=imported)
        return self._proposal(session)

    def _opening(self, session: int) -> types.EntryBody:
        body = opening(self._random.choice([1_000, 20_000]))
        body.open_session.session_id = session
        self._next[session] = 1
        return self._timed(body)

    def _proposal(self, session: int) -> types.EntryBody:
        sequence = self._next[session]
        if self._random.random() < 0.3:
            sequence = max(0, sequence + self._random.randrange(-6, 4))
        self._next[session] = max(self._next[session], sequence + 1)
        found = proposal(
            session,
            sequence,
            self._operations(),
            PAYLOADS,
            below=max(0, sequence - self._random.randrange(-1, 6)),
            preconditions=self._preconditions(),
        )
        return self._timed(
            types.EntryBody(
                proposal=found,
                content_digest=self._random.choice([b"", content_digest(found)]),
                term=self._random.randrange(3),
            )
        )

    def _timed(self, body: types.EntryBody) -> types.EntryBody:
        body.time_ms = self._random.randrange(10_000)
        if self._random.random() < 0.9:
            body.elapsed_ms = self._random.choice([0, 0, 0, 1, 300, 900])
        return body

    def _preconditions(self) -> list[types.Precondition]:
        key, path = self._random.choice(KEYS), self._random.choice(PATHS)
        digest = self._random.choice(PAYLOADS).digest
        found = [
            types.Precondition(key_absent=key),
            types.Precondition(key_equals=types.KeyEquals(key=key, value=b"1")),
            types.Precondition(path_absent=path),
            types.Precondition(path_digest_equals=types.PathDigestEquals(path=path, digest=digest)),
        ]
        return self._random.sample(found, self._random.choice([0, 0, 0, 1, 2]))

    def _operations(self) -> list[types.Operation]:
        return [self._operation() for _ in range(self._random.randrange(5))]

    def _operation(self) -> types.Operation:
        choose = self._random.choice
        makers: list[Callable[[], types.Operation]] = [
            lambda: set_key(choose(KEYS), choose([b"", b"1", b"22"])),
            lambda: delete_key(choose(KEYS)),
            lambda: mkdir(choose(PATHS)),
            lambda: link(choose(PATHS), self._random.randrange(1, len(PAYLOADS) + 1)),
            lambda: copy(choose(PATHS), choose(PATHS)),
            lambda: remove(choose(PATHS)),
        ]
        return choose(makers)()

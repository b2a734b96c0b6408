"""A log of entries whose effects are known, and a replica that serves it to a reader."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import types_pb2 as types
from partition_replica.core.limits import Limits
from partition_replica.core.model import LogEntry
from partition_replica.ids import LSN, Term
from partition_replica.runtime.serving.reads import Reads
from partition_replica.storage.state import LmdbState
from partition_replica.transport.failures import Failures
from partition_replica.transport.log_store_service import LogStoreService

from tests.support.proposals import (
    body,
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

DONE, EXISTS = types.OUTCOME_APPLIED, types.OUTCOME_DESTINATION_EXISTS
NO_SOURCE, NO_PARENT = types.OUTCOME_SOURCE_NOT_FOUND, types.OUTCOME_PARENT_NOT_FOUND

ABSENT = types.Precondition(key_absent=b"k")
IMPORTED = types.ImportedEntry(operations=[mkdir(b"d"), remove(b"none"), set_key(b"i", b"1")])

ENTRIES: list[tuple[types.EntryBody | None, int, list[int]]] = [
    (opening(), api.EFFECT_UNSPECIFIED, []),
    (body(proposal(1, 1, [set_key(b"k", b"1"), mkdir(b"d")])), api.EFFECT_APPLIED, []),
    (body(proposal(1, 1, [set_key(b"k", b"1"), mkdir(b"d")])), api.EFFECT_NONE, []),
    (body(proposal(1, 2, [delete_key(b"k")], preconditions=[ABSENT])), api.EFFECT_NONE, []),
    (
        body(
            proposal(
                1,
                3,
                [mkdir(b"d"), link(b"d/f"), copy(b"x", b"y"), link(b"no/f")],
                [payload(b"content")],
            )
        ),
        api.EFFECT_PARTIAL,
        [EXISTS, DONE, NO_SOURCE, NO_PARENT],
    ),
    (None, api.EFFECT_UNSPECIFIED, []),
    (body(proposal(77, 1, [set_key(b"k", b"3")])), api.EFFECT_NONE, []),
    (types.EntryBody(imported=IMPORTED), api.EFFECT_PARTIAL, [EXISTS, NO_SOURCE, DONE]),
    (body(proposal(1, 4)), api.EFFECT_APPLIED, []),
]


class Replica:
    """Its log is a list, its state is real."""

    def __init__(self, path: Path) -> None:
        self.state = LmdbState(path)
        self.log = [
            LogEntry(LSN(lsn), Term(1), 0, found.SerializeToString() if found else b"")
            for lsn, (found, _, _) in enumerate(ENTRIES, 1)
        ]
        self.state.apply(self.log, {})
        self.stored = SimpleNamespace(first_stored=1, base=LSN(0), read=self.read)
        self.reads = Reads(
            self.stored,  # type: ignore[arg-type]
            SimpleNamespace(current=self.state),  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            SimpleNamespace(running=SimpleNamespace),  # type: ignore[arg-type]
        )
        self.committed_entries = self.reads.entries
        self.check_history = lambda _: None
        self.unapplied = self.reads.unapplied

    def read(self, lo: LSN, hi: LSN, bytes_max: int) -> list[LogEntry]:
        return self.log[lo - 1 : hi - 1][:4]  # several batches


async def read(replica: Any, **request: Any) -> list[api.ReadResponse]:
    service = LogStoreService(replica, Limits(), Failures(lambda _: None, lambda _: None))
    return [found async for found in service.Read(api.ReadRequest(**request), None)]

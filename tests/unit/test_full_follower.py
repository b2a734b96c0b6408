"""What a follower takes from its leader when its own volume is full. The volumes of a group become
full together, so a follower that took nothing would keep anybody from ever removing anything."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from partition_proto.v1 import types_pb2 as types
from partition_replica.core.limits import Limits
from partition_replica.engine.port import MessageKind
from partition_replica.runtime.metrics import Metrics
from partition_replica.runtime.transfer.payloads import Payloads


def proposal(**operation: Any) -> bytes:
    operations = [types.Operation(**operation)]
    body = types.EntryBody(proposal=types.Proposal(operations=operations))
    return bytes(body.SerializeToString())


SET = proposal(set_key=types.SetKey(key=b"k", value=b"v"))
DELETE = proposal(delete_key=types.DeleteKey(key=b"k"))
SESSION = types.EntryBody(open_session=types.OpenSession()).SerializeToString()
OF_A_NEW_LEADER = b""
MEMBERS, NORMAL = 1, 0


def append(*entries: tuple[int, bytes]) -> Any:
    rows = [
        SimpleNamespace(row=lambda n=n, k=kind, d=data: (n, 1, k, d, b""))
        for n, (kind, data) in enumerate(entries, 1)
    ]
    return SimpleNamespace(
        kind=MessageKind.APPEND, sender=2, entries=rows, entry_count=len(rows), term=1
    )


@pytest.mark.parametrize(
    ("full", "low", "entries", "taken"),
    [
        (False, False, [(NORMAL, SET)], True),
        # The leader accepted it before its own volume was full.
        (True, False, [(NORMAL, SET), (NORMAL, DELETE)], True),
        (True, True, [(NORMAL, SET)], False),
        (True, True, [(NORMAL, DELETE), (NORMAL, SET)], False),
        (True, True, [(NORMAL, SESSION), (NORMAL, DELETE)], True),
        (True, True, [(NORMAL, OF_A_NEW_LEADER), (MEMBERS, b"\x0a")], True),
        (True, True, [], True),
    ],
)
async def test_it_takes_what_was_accepted_and_always_removals(
    full: bool, low: bool, entries: list[tuple[int, bytes]], taken: bool
) -> None:
    delivered: list[Any] = []
    metrics = Metrics()
    payloads = Payloads(
        cast("Any", None),
        cast("Any", None),
        Limits(),
        metrics,
        own_member=1,
        configuration=cast("Any", None),
        disk_full=lambda: full,
        disk_low=lambda: low,
        deliver=lambda message, _: delivered.append(message),
        failed=pytest.fail,
    )
    message = append(*entries)
    payloads.admit(message, 100)
    assert delivered == ([message] if taken else [])
    dropped = metrics.messages_dropped.labels("disk_full")._value.get()
    assert dropped == (0 if taken else 1)

"""What a follower takes from its leader when its own volume is full, and what a leader then says.
The volumes of a group become full together, so a follower that took nothing would keep anybody from
ever removing anything."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from partition_proto.v1 import types_pb2 as types
from partition_replica.core.limits import Limits
from partition_replica.engine.port import MessageKind
from partition_replica.errors import DiskFull, PayloadQuorum
from partition_replica.ids import Digest
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
        kind=MessageKind.APPEND,
        sender=2,
        entries=rows,
        entry_count=len(rows),
        term=1,
        blob_digests=list,
    )


def made(metrics: Metrics, delivered: list[Any], *, full: bool, low: bool) -> Payloads:
    return Payloads(
        cast("Any", SimpleNamespace(pin_present=lambda *_: True)),
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
    payloads = made(metrics, delivered, full=full, low=low)
    message = append(*entries)
    payloads.admit(message, 100)
    assert delivered == ([message] if taken else [])
    dropped = metrics.messages_dropped.labels("disk_full")._value.get()
    assert dropped == (0 if taken else 1)


@pytest.mark.parametrize(("full", "refusal"), [(True, DiskFull), (False, PayloadQuorum)])
async def test_a_full_leader_without_a_quorum_for_a_payload_says_that_disks_are_full(
    full: bool, refusal: type[Exception]
) -> None:
    """A client tries again after PAYLOAD_QUORUM, which is no use then."""
    payloads = made(Metrics(), [], full=full, low=False)

    async def to_quorum(_: object) -> None:
        raise PayloadQuorum("1 of 3 voters has the payload")

    payloads.dissemination = cast("Any", SimpleNamespace(to_quorum=to_quorum))
    with pytest.raises(refusal, match="1 of 3 voters"):
        await payloads.ensure_quorum([Digest(bytes(32))])

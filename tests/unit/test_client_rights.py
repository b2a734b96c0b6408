"""Clients with names and rights of their own: each RPC by each of them, and what becomes of a
stream when its client is revoked."""

import json
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from partition_operator.api.tls import Client as AskedClient
from partition_operator.resources import clients as written
from partition_proto.v1 import inspection_pb2, log_store_pb2, peer_pb2, replica_admin_pb2
from partition_replica.transport.authorization import Authorizer
from partition_replica.transport.client_list import (
    NO_CLIENTS,
    BadClientList,
    Client,
    ClientList,
    ClientLists,
    Rights,
    parse,
)
from partition_replica.transport.refusal_log import LOG_AGAIN_S

from tests.support.authorized_calls import PARTITION, Context, Denied, guarded_stream, let_in

NOW = datetime(2026, 1, 1, tzinfo=UTC)
READ = {
    "Read", "GetKey", "GetFrames", "ListKeys", "ListTree", "ReadFile", "ReadState", "GetStatus",
    "RegisterConsumer", "AcknowledgeConsumer", "ListConsumers",
}  # fmt: skip
WRITE = READ | {
    "OpenSession", "CloseSession", "Append", "AppendFrames", "UploadPayload", "UploadPayloads",
    "RemoveConsumer",
}  # fmt: skip
ADMIN = WRITE | {
    "TransferLeadership", "StartSnapshotJob", "GetSnapshotJob", "CancelSnapshotJob", "Verify",
}  # fmt: skip
METHODS = [
    (service.full_name, method.name)
    for description in (peer_pb2, replica_admin_pb2, inspection_pb2, log_store_pb2)
    for service in description.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
LISTED = ClientList(
    {name: Client(name, "1d", Rights[name.upper()]) for name in ("read", "write", "admin")}
)


def party(name: str, identity: str = "1d") -> str:
    return f"logstore://{PARTITION}/client/{name}/{identity}"


@pytest.mark.parametrize(("service", "method"), METHODS)
async def test_a_call_needs_the_rights_for_it(service: str, method: str) -> None:
    authorizer = Authorizer(PARTITION, clients=lambda: LISTED)
    allowed = {
        name for name in LISTED.by_name
        if await let_in(service, method, party(name), authorizer=authorizer)
    }  # fmt: skip
    known = {"read": READ, "write": WRITE, "admin": ADMIN}
    ours = service != "logstore.v1.Peer"
    assert allowed == {name for name, methods in known.items() if ours and method in methods}
    strange = (
        party("admin", "0ther"),
        party("nobody"),
        party("admin").replace("orders", "other"),
        party("admin") + "/more",
        f"logstore://{PARTITION}/client/admin",
        f"logstore://{PARTITION}/client/",
    )
    for identity in strange:
        assert not await let_in(service, method, identity, authorizer=authorizer), identity


def test_a_refusal_says_what_is_missing_and_what_to_do() -> None:
    authorizer = Authorizer(PARTITION, clients=lambda: LISTED)
    append = "/logstore.v1.LogStore/Append"
    assert "has the rights Read, and Write is needed: see spec.clients" in authorizer.refusal(
        append, [party("read")]
    )
    assert "take the current files of Secret orders-client-write" in authorizer.refusal(
        append, [party("write", "0ld")]
    )
    assert "no client gone: it was revoked, or this replica has not received" in (
        authorizer.refusal(append, [party("gone")])
    )
    assert "no rights of a client allow it" in authorizer.refusal(
        "/logstore.v1.ReplicaAdmin/RemoveMember", [party("admin")]
    )
    assert authorizer.refused_calls == 4
    assert "RemoveMember" in authorizer.refused_last


def test_refusals_are_counted_and_logged_at_a_bounded_rate(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now, counted = 0.0, list[str]()
    authorizer = Authorizer(PARTITION, counted.append, lambda: LISTED, lambda: now)
    append = "/logstore.v1.LogStore/Append"
    with caplog.at_level(logging.WARNING):
        for _ in range(50):
            authorizer.refusal(append, [party("read")])
        assert len(caplog.records) == 1
        for number in range(500):
            authorizer.refusal(append, [party(f"stranger{number}")])
        assert len(caplog.records) <= 100
        caplog.clear()
        now += LOG_AGAIN_S
        authorizer.refusal(append, [party("read")])
        assert len(caplog.records) == 1
    assert counted == ["PERMISSION_DENIED"] * 551


# --- streams ----------------------------------------------------------------------------------


class Lists:
    def __init__(self) -> None:
        self.now = LISTED

    def __call__(self) -> ClientList:
        return self.now


async def test_an_open_stream_ends_when_its_client_is_revoked() -> None:
    lists, seen = Lists(), list[str]()

    async def inner(requests: Any, context: Any) -> AsyncIterator[str]:
        async for request in requests:
            seen.append(request)
            yield f"answer to {request}"

    async def requests() -> AsyncIterator[str]:
        yield "one"
        lists.now = ClientList({"read": LISTED.by_name["read"]})
        yield "two"
        raise AssertionError("nobody asks for more")

    authorizer = Authorizer(PARTITION, clients=lists)
    stream = await guarded_stream(authorizer, "/logstore.v1.LogStore/AppendFrames", inner)
    answers: list[str] = []
    with pytest.raises(Denied, match="no client write: it was revoked"):
        async for answer in stream(requests(), Context(party("write"))):
            answers.append(answer)
    assert (seen, answers) == (["one"], ["answer to one"])
    assert authorizer.refused_calls == 1


async def test_a_tail_ends_before_it_shows_more_to_a_revoked_client() -> None:
    lists = Lists()

    async def inner(requests: Any, context: Any) -> AsyncIterator[str]:
        yield "one"
        lists.now = NO_CLIENTS
        yield "two"

    authorizer = Authorizer(PARTITION, clients=lists)
    stream = await guarded_stream(authorizer, "/logstore.v1.LogStore/GetFrames", inner)
    answers: list[str] = []

    async def nothing() -> AsyncIterator[str]:
        return
        yield ""

    with pytest.raises(Denied):
        async for answer in stream(nothing(), Context(party("read"))):
            answers.append(answer)
    assert answers == ["one"]


async def test_other_rights_of_others_do_not_touch_a_stream() -> None:
    lists = Lists()

    async def inner(requests: Any, context: Any) -> AsyncIterator[str]:
        async for request in requests:
            lists.now = ClientList({"write": LISTED.by_name["write"]})
            yield request

    async def requests() -> AsyncIterator[str]:
        for number in range(3):
            yield str(number)

    authorizer = Authorizer(PARTITION, clients=lists)
    stream = await guarded_stream(authorizer, "/logstore.v1.LogStore/Append", inner)
    assert [a async for a in stream(requests(), Context(party("write")))] == ["0", "1", "2"]


# --- the list ---------------------------------------------------------------------------------


def test_the_replica_reads_what_the_operator_writes(tmp_path: Path) -> None:
    asked = (AskedClient("billing", "Read"), AskedClient("orders", "Admin", 3))
    entries = written.wanted(asked, written.Listing(), (), known=True)
    gone = written.wanted(asked[:1], written.Listing(entries), ("orders",), known=True)
    content = written.content(gone)
    found = parse(content)
    assert set(found.by_name) == {"billing"}
    assert found.by_name["billing"].rights is Rights.READ
    listing = written.read({"data": written.patch(gone, NOW)["data"]})
    assert listing.fingerprint == found.fingerprint
    assert {e.name: e.rights for e in listing.entries} == {"billing": "Read", "orders": "None"}


def test_a_list_that_is_damaged_leaves_the_one_before_in_use(tmp_path: Path) -> None:
    now, heard = 0.0, list[str]()
    path = tmp_path / "clients.json"

    def hear(problem: BadClientList | None) -> None:
        heard.append(str(problem or "good again"))

    lists = ClientLists(path, hear, lambda: now)
    assert lists.current() is NO_CLIENTS
    good = {"version": 1, "clients": [{"name": "a", "id": "1", "rights": "Read"}]}
    steps: list[tuple[bytes | None, set[str], int]] = [
        (json.dumps(good).encode(), {"a"}, 0),
        (b"{", {"a"}, 1),
        (b'{"version": 2, "clients": []}', {"a"}, 2),
        (b'{"version": 1, "clients": [{"name": "a"}]}', {"a"}, 3),
        (b'{"version": 1, "clients": [7]}', {"a"}, 4),
        (b'{"version": 1, "clients": []}', set(), 5),
        (None, set(), 5),
    ]
    for content, names, told in steps:
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        now += 1
        assert set(lists.current().by_name) == names
        assert len(heard) == told
    assert heard[-1] == "good again"
    unknown = {"version": 1, "clients": [{"name": "a", "id": "1", "rights": "Everything"}]}
    assert parse(json.dumps(unknown).encode()).by_name == {}

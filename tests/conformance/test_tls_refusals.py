"""What no retry mends is said at once, by name: the client does not wait for its deadline."""

import asyncio
import datetime as dt
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from partition_client import AsyncClient, DeadlineExceeded, Tls, TlsFilesInvalid, TlsRefused
from partition_client.channels import open_channel
from partition_operator.resources.certificates import (
    KeyPair,
    identity,
    issue,
    make_authority,
)
from partition_proto.connection import handshake
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import log_store_pb2_grpc
from partition_proto.v1 import peer_pb2 as peer_api
from partition_replica.config import TlsFiles
from partition_replica.core.limits import Limits
from partition_replica.transport.authorization import Authorizer
from partition_replica.transport.channels import add_port
from partition_replica.transport.peers import TLS_TRIED_AT, Peers

from tests.support.certificates import mount
from tests.support.local_group import eventually

PARTITION = "tests/group"
DEADLINE_S = 60.0
AT_ONCE_S = 20.0
"""Far from the deadline; long enough for a busy machine."""
YEAR = dt.timedelta(days=366)


class Service(log_store_pb2_grpc.LogStoreServicer):
    async def GetStatus(self, request: Any, context: Any) -> api.GetStatusResponse:
        return api.GetStatusResponse(role="leader", serving=True, member_id=1, term=1)

    async def GetKey(self, request: Any, context: Any) -> api.GetKeyResponse:
        return api.GetKeyResponse(found=True, value=b"v")


class Follower(Service):
    """Says that another one leads, at an address that is none of the endpoints."""

    def __init__(self, leader: str) -> None:
        self._leader = leader

    async def GetStatus(self, request: Any, context: Any) -> api.GetStatusResponse:
        found = api.GetStatusResponse(role="follower", serving=False, member_id=1, term=1)
        found.leader.member_id = 2
        found.leader.address = self._leader
        return found


@dataclass
class Pki:
    """server, client: folders of a pair that fits."""

    root: Path
    authority: KeyPair
    other: KeyPair
    server: Path
    client: Path

    def pair(
        self,
        role: str,
        *,
        authority: KeyPair | None = None,
        later: dt.timedelta = dt.timedelta(),
        partition: str = PARTITION,
    ) -> KeyPair:
        namespace, _, name = partition.partition("/")
        now = dt.datetime.now(dt.UTC) + later
        hosts = ["localhost"] if role == "replica" else []
        return issue(authority or self.authority, identity(namespace, name, role), hosts, now)


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    now = dt.datetime.now(dt.UTC)
    made = make_authority(now - 2 * YEAR)
    found = Pki(tmp_path, made, make_authority(now), tmp_path / "server", tmp_path / "client")
    mount(found.server, found.pair("replica"), made.certificate)
    mount(found.client, found.pair("client"), made.certificate)
    return found


@asynccontextmanager
async def served(
    folder: Path | None,
    service: Service | None = None,
    refused: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[str]:
    interceptors = [] if folder is None else [Authorizer(PARTITION, refused)]
    server = grpc.aio.server(interceptors=interceptors)
    log_store_pb2_grpc.add_LogStoreServicer_to_server(service or Service(), server)
    tls = folder and TlsFiles(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")
    port = add_port(server, "localhost:0", tls)
    await server.start()
    try:
        yield f"localhost:{port}"
    finally:
        await server.stop(None)


def other_authority_of_the_server(pki: Pki) -> None:
    pair = pki.pair("replica", authority=pki.other)
    mount(pki.server, pair, pki.authority.certificate)


def other_authority_of_the_client(pki: Pki) -> None:
    mount(pki.client, pki.pair("client", authority=pki.other), pki.authority.certificate)


def expired_client(pki: Pki) -> None:
    mount(pki.client, pki.pair("client", later=-YEAR), pki.authority.certificate)


def young_client(pki: Pki) -> None:
    mount(pki.client, pki.pair("client", later=YEAR), pki.authority.certificate)


def expired_server(pki: Pki) -> None:
    mount(pki.server, pki.pair("replica", later=-YEAR), pki.authority.certificate)


def young_server(pki: Pki) -> None:
    mount(pki.server, pki.pair("replica", later=YEAR), pki.authority.certificate)


def another_partition(pki: Pki) -> None:
    pair = pki.pair("client", partition="tests/other")
    mount(pki.client, pair, pki.authority.certificate)


CASES: dict[Callable[[Pki], None], tuple[str, str]] = {
    other_authority_of_the_server: ("SERVER_AUTHORITY", "ca.crt"),
    other_authority_of_the_client: ("OWN_CERTIFICATE_REFUSED", "another authority"),
    expired_client: ("OWN_CERTIFICATE_EXPIRED", "expired"),
    young_client: ("OWN_CERTIFICATE_NOT_YET_VALID", "compare the clocks"),
    expired_server: ("SERVER_CERTIFICATE_EXPIRED", "renew it"),
    young_server: ("SERVER_CERTIFICATE_NOT_YET_VALID", "compare the clocks"),
    another_partition: ("PERMISSION_DENIED", "logstore://tests/other/client"),
}


async def first(entries: AsyncIterator[Any]) -> Any:
    async for entry in entries:
        return entry
    return None


async def refused(endpoints: list[str], tls: Tls | None, **options: Any) -> TlsRefused:
    """What reads, appends and tails are told, which is the same."""
    began = time.monotonic()
    found: list[TlsRefused] = []
    async with AsyncClient(endpoints, tls, deadline_s=DEADLINE_S, **options) as client:
        for call in (
            lambda: client.get_key(b"k"),
            lambda: client.set_key(b"k", b"v"),
            lambda: client.get_key(b"k", stale_from=endpoints[0]),
            client.statuses,
            lambda: first(client.tail()),
            lambda: first(client.tail(stale_from=endpoints[0])),
        ):
            with pytest.raises((TlsRefused, DeadlineExceeded)) as caught:
                await call()
            assert isinstance(caught.value, TlsRefused), caught.value
            found.append(caught.value)
    assert time.monotonic() - began < AT_ONCE_S
    assert len({error.reason for error in found}) == 1
    return found[0]


@pytest.mark.parametrize("spoil", CASES, ids=lambda spoil: spoil.__name__)
async def test_a_certificate_that_is_refused(pki: Pki, spoil: Callable[[Pki], None]) -> None:
    reason, words = CASES[spoil]
    spoil(pki)
    async with served(pki.server) as address:
        error = await refused([address], Tls.in_directory(pki.client))
    assert error.reason == reason
    assert words in str(error)


async def test_a_name_that_the_certificate_lacks(pki: Pki) -> None:
    async with served(pki.server) as address:
        error = await refused([address], Tls.in_directory(pki.client, "elsewhere"))
    assert error.reason == "SERVER_NAME_MISMATCH"
    assert "'elsewhere'" in str(error)


async def test_tls_on_one_side_alone(pki: Pki) -> None:
    async with served(None) as address:
        error = await refused([address], Tls.in_directory(pki.client))
        assert error.reason == "PLAINTEXT_PORT"
    async with served(pki.server) as address:
        error = await refused([address], None)
        assert error.reason == "TLS_PORT"


async def test_files_that_cannot_be_used(pki: Pki) -> None:
    (pki.client / "tls.crt").write_bytes(b"")
    tls = Tls.in_directory(pki.client)
    async with served(pki.server) as address, AsyncClient([address], tls) as client:
        with pytest.raises(TlsFilesInvalid, match=r"tls\.crt is empty"):
            await client.get_key(b"k")
        with pytest.raises(TlsFilesInvalid, match=r"tls\.crt is empty"):
            await client.set_key(b"k", b"v")
    missing = replace(tls, certificate=pki.root / "none.crt")
    async with AsyncClient(["localhost:1"], missing) as client:
        with pytest.raises(TlsFilesInvalid, match=r"none\.crt: No such file"):
            await client.get_key(b"k")


async def test_one_endpoint_that_is_refused_does_not_stop_the_others(pki: Pki) -> None:
    tls = Tls.in_directory(pki.client)
    async with served(None) as plain, served(pki.server) as good:
        async with AsyncClient([plain, good], tls) as client:
            assert await client.get_key(b"k") == b"v"


async def test_a_leader_that_is_named_and_refused(pki: Pki) -> None:
    async with served(None) as plain, served(pki.server, Follower(plain)) as follower:
        async with AsyncClient([follower], Tls.in_directory(pki.client)) as client:
            with pytest.raises(TlsRefused) as caught:
                await client.get_key(b"k")
    assert caught.value.reason == "PLAINTEXT_PORT"


async def test_what_gets_better_is_not_refused(pki: Pki) -> None:
    """Nobody listens, or somebody who closes each connection: both may be a replica's restart."""

    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(close, "localhost", 0)
    port = server.sockets[0].getsockname()[1]
    tls = Tls.in_directory(pki.client)
    for address in ("localhost:1", f"localhost:{port}"):
        for given in (tls, None):
            async with AsyncClient([address], given, deadline_s=3.0) as client:
                with pytest.raises(DeadlineExceeded):
                    await client.get_key(b"k")
    server.close()


# --- members ----------------------------------------------------------------------------------


async def test_a_member_that_is_refused_is_named_once(
    pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    """However often it is tried; and again when it was reached meanwhile."""
    refused: list[str] = []
    tries = 0

    def unreachable(_: int) -> None:
        nonlocal tries
        tries += 1

    other_authority_of_the_server(pki)
    folder = pki.root / "member"
    mount(folder, pki.pair("replica"), pki.authority.certificate)
    peers = Peers(
        2,
        Limits(),
        TlsFiles(folder / "tls.crt", folder / "tls.key", folder / "ca.crt"),
        hello=lambda: peer_api.Hello(cluster_id="c"),
        unreachable=unreachable,
        dropped=lambda _: None,
        snapshot_sent=lambda _: None,
        refused=refused.append,
    )
    try:
        async with served(pki.server) as address:
            peers.set_addresses({1: address})
            peers.send(1, [b"message"])

            async def named() -> bool:
                return bool(refused)

            await eventually(named, "the member is named")
            named_at = tries

            async def tried() -> bool:
                return tries >= named_at + 2 * TLS_TRIED_AT

            await eventually(tried, "it is tried again and again")
    finally:
        await peers.close()
    assert refused == ["SERVER_AUTHORITY"]
    assert len([r for r in caplog.records if "can't be reached" in r.message]) == 1


async def test_a_caller_of_another_partition_is_named_once(
    pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    another_partition(pki)
    counted: list[str] = []
    async with served(pki.server, refused=counted.append) as address:
        async with open_channel(address, Tls.in_directory(pki.client)) as channel:
            stub = log_store_pb2_grpc.LogStoreStub(channel)
            for _ in range(5):
                with pytest.raises(grpc.aio.AioRpcError):
                    await stub.GetStatus(api.GetStatusRequest(), timeout=10)
    assert counted == ["PERMISSION_DENIED"] * 5
    named = [r for r in caplog.records if "logstore://tests/other/client" in r.message]
    assert len(named) == 1


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("host:7000", ("host", 7000)),
        ("dns:///host:7000", ("host", 7000)),
        ("[::1]:7000", ("::1", 7000)),
        ("host", ("", 0)),
        ("host:port", ("host", 0)),
        ("host:99999", ("host", 0)),
    ],
)
def test_addresses_are_taken_apart(address: str, expected: tuple[str, int]) -> None:
    host, port = handshake.split(address)
    assert port == expected[1]
    assert not port or host == expected[0]

"""What no retry mends is said at once, by name: the client does not wait for its deadline."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import grpc
import pytest
from partition_client import AsyncClient, DeadlineExceeded, Tls, TlsFilesInvalid, TlsRefused
from partition_client.channels import open_channel
from partition_proto.connection import handshake
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import log_store_pb2_grpc
from partition_proto.v1 import peer_pb2 as peer_api
from partition_replica.config import TlsFiles
from partition_replica.core.limits import Limits
from partition_replica.transport.peers import Peers
from partition_replica.transport.raft_link import TLS_TRIED_AT

from tests.support.certificates import mount
from tests.support.local_group import eventually
from tests.support.tls_refusals import (
    CASES,
    Follower,
    Pki,
    another_partition,
    other_authority_of_the_server,
    refused,
    served,
)
from tests.support.tls_refusals import pki as pki  # a fixture


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

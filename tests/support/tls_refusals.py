"""Servers and clients whose certificates do not fit, and what a client is told of them."""

import datetime as dt
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from partition_client import AsyncClient, DeadlineExceeded, Tls, TlsRefused
from partition_operator.resources.certificates import (
    KeyPair,
    identity,
    issue,
    make_authority,
)
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import log_store_pb2_grpc
from partition_replica.config import TlsFiles
from partition_replica.transport.authorization import Authorizer
from partition_replica.transport.channels import add_port

from tests.support.certificates import mount

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
    other_authority_of_the_client: ("OWN_CERTIFICATE_REFUSED", "another CA"),
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

"""Two ends of a connection of `partition_tls`, each on its thread, over loopback."""

import asyncio
import datetime as dt
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from partition_operator.resources.certificates import (
    KeyPair,
    Lifetimes,
    identity,
    issue,
    make_authority,
)
from partition_proto.connection import pem
from partition_replica.config import TlsFiles
from partition_tls import ClientConfig, Connection, ServerConfig

from tests.support.certificates import mount

SILENCE_S = 20.0


def certificates(
    folder: Path,
    authority: KeyPair,
    hosts: list[str],
    *,
    begin: dt.timedelta = dt.timedelta(0),
    lifetime: dt.timedelta = dt.timedelta(hours=1),
) -> pem.Pem:
    """Of a replica, valid from `begin` after now on."""
    party = identity("tests", "group", "replica")
    lifetimes = Lifetimes(certificate=lifetime, renew_before=lifetime / 2)
    pair = issue(authority, party, hosts, dt.datetime.now(dt.UTC) + begin, lifetimes)
    mount(folder, pair, authority.certificate)
    return pem.read(TlsFiles(folder / "tls.crt", folder / "tls.key", folder / "ca.crt"))[0]


def authority() -> KeyPair:
    return make_authority(dt.datetime.now(dt.UTC) - dt.timedelta(days=2))


def server(found: pem.Pem) -> ServerConfig:
    return ServerConfig(found.authority, found.certificate, found.key)


def client(found: pem.Pem) -> ClientConfig:
    return ClientConfig(found.authority, found.certificate, found.key)


def sockets() -> tuple[socket.socket, socket.socket]:
    """(accepted, connected)"""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        connected = socket.create_connection(listening.getsockname())
        accepted, _ = listening.accept()
    return accepted, connected


@asynccontextmanager
async def connected(
    here: ServerConfig | None,
    there: ClientConfig | None,
    name: str = "localhost",
    timeout_s: float = SILENCE_S,
) -> AsyncIterator[tuple[Connection, Connection]]:
    """Yields (the side that accepted, the side that connected). Raises ConnectionFailed."""
    accepted, opened = sockets()
    results = await asyncio.gather(
        asyncio.to_thread(Connection.accept, accepted.detach(), here, timeout_s),
        asyncio.to_thread(Connection.connect, opened.detach(), there, name, timeout_s),
        return_exceptions=True,
    )
    for result in results[::-1]:  # what the side that connects says is more exact
        if isinstance(result, BaseException):
            raise result
    first, second = results
    assert isinstance(first, Connection)
    assert isinstance(second, Connection)
    try:
        yield first, second
    finally:
        first.shutdown()
        second.shutdown()

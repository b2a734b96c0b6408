"""TCP sockets: listening ones, connected ones, and their options."""

import asyncio
import errno
import socket
from asyncio.trsock import TransportSocket
from contextlib import ExitStack

from partition_replica.transport.listening import parse_listen

BACKLOG = 128
SAME_PORT_TRIES = 10
"""Tries to find a port that is free at each address of a host."""

NEXT_ADDRESS_S = 1.0
"""The time for a host's address that is not its last one to accept a connection."""

PROBE_S = 1
PROBES = 3


def listening(listen: str) -> list[socket.socket]:
    """Listens at HOST:PORT, with one port for all addresses of the host; a wildcard means all IPv4
    and IPv6 addresses. Port 0 lets the kernel choose. Raises OSError, ValueError."""
    host, port = parse_listen(listen)
    if host is None:
        return [_listening_everywhere(port)]
    for _ in range(SAME_PORT_TRIES - 1):
        try:
            return _listening_at(host, port)
        except OSError as error:
            # The port that the kernel chose at one address is taken at another.
            if port or error.errno != errno.EADDRINUSE:
                raise
    return _listening_at(host, port)


async def readable(connection: socket.socket) -> None:
    """Waits until a non-blocking socket has something to read, or has ended."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def found() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(connection, found)
    try:
        await ready
    finally:
        loop.remove_reader(connection)


async def connected(host: str, port: int) -> socket.socket:
    """Connects to the first address of a host that accepts. Non-blocking. Raises OSError."""
    loop = asyncio.get_running_loop()
    addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    failed: OSError | None = None
    for number, (family, kind, protocol, _, address) in enumerate(addresses, 1):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.setblocking(False)
            async with asyncio.timeout(NEXT_ADDRESS_S if number < len(addresses) else None):
                await loop.sock_connect(connection, address)
        except OSError as error:
            connection.close()
            failed = error
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    raise failed or OSError(errno.EADDRNOTAVAIL, f"{host} has no address")


def tune(connection: socket.socket | TransportSocket, silence_s: float) -> None:
    """Sends small messages at once, and breaks the connection if the other side's kernel answers
    nothing for `silence_s`: neither data nor, while there is none, keepalive probes. Raises OSError
    if the connection is broken already."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {
        "TCP_KEEPIDLE": max(1, round(silence_s) - PROBES * PROBE_S),
        "TCP_KEEPINTVL": PROBE_S,
        "TCP_KEEPCNT": PROBES,
        "TCP_USER_TIMEOUT": round(silence_s * 1000),
    }
    for name, value in options.items():
        if hasattr(socket, name):  # Linux has all of them
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _listening_everywhere(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG
            )
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
    return socket.create_server(("", port), backlog=BACKLOG)


def _listening_at(host: str, port: int) -> list[socket.socket]:
    found: list[socket.socket] = []
    missing: OSError | None = None
    with ExitStack() as failed:
        for family, *_, place in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            address = (place[0], port, *place[2:])
            try:
                # The families of AI_PASSIVE are those of TCP: AF_INET and AF_INET6.
                one = socket.create_server(address, family=family, backlog=BACKLOG)
            except OSError as error:
                # localhost has an IPv6 address, too, where the kernel has no IPv6.
                if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    raise
                missing = error
                continue
            failed.callback(one.close)
            port = int(one.getsockname()[1])
            found.append(one)
        failed.pop_all()
    if not found:
        raise missing or OSError(errno.EADDRNOTAVAIL, f"{host} has no address here")
    return found

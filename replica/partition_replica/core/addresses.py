"""Addresses: host:port, with an IPv6 address in brackets."""

import re

PORT_MAX = 65535
SOCKET_SCHEME = "unix:"
SOCKET_PATH_BYTES_MAX = 107
"""The size of a Unix domain socket's path, as in Linux."""

_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s:/@\[\]]*):(?P<port>[0-9]{1,5})")


def is_address(text: str) -> bool:
    """Whether `text` can be the address of another program: it has a host, and a port from 1."""
    found = _ADDRESS.fullmatch(text)
    return found is not None and bool(found["host"]) and 0 < int(found["port"]) <= PORT_MAX


def is_socket(text: str) -> bool:
    """Whether `text` is the address of a Unix domain socket: unix: and an absolute path."""
    path = text.removeprefix(SOCKET_SCHEME)
    return (
        text.startswith(f"{SOCKET_SCHEME}/")
        and path.isprintable()
        and len(path.encode()) <= SOCKET_PATH_BYTES_MAX
    )


def is_listen_address(text: str) -> bool:
    """Whether `text` can be a listen address. An empty host stands for all interfaces; for port 0,
    the kernel chooses one."""
    found = _ADDRESS.fullmatch(text)
    return found is not None and int(found["port"]) <= PORT_MAX

"""host:port, an IPv6 address in brackets."""

import re

PORT_MAX = 65535

_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s:/@\[\]]*):(?P<port>[0-9]{1,5})")


def is_address(text: str) -> bool:
    """Whether somebody else could be reached there: a host, and a port from 1 on."""
    found = _ADDRESS.fullmatch(text)
    return found is not None and bool(found["host"]) and 0 < int(found["port"]) <= PORT_MAX


def is_listen_address(text: str) -> bool:
    """Whether one can listen there: no host is any, port 0 lets the system choose."""
    found = _ADDRESS.fullmatch(text)
    return found is not None and int(found["port"]) <= PORT_MAX

"""Parses the address at which an HTTP server listens."""

WILDCARDS = ("", "*", "0.0.0.0", "::")  # noqa: S104  # compared with, not listened on


def parse_listen(listen: str) -> tuple[str | None, int]:
    """Parses HOST:PORT to (host, port) for asyncio. An IPv6 address may have brackets. The host is
    None for a wildcard. Raises ValueError.

    A wildcard means all IPv4 and IPv6 addresses, as in gRPC. asyncio alone would listen on only one
    of the two families.
    """
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal():
        raise ValueError(f"{listen!r}: expected HOST:PORT, such as [::]:7080")
    host = host.removeprefix("[").removesuffix("]")
    return (None if host in WILDCARDS else host), int(port)

"""Where an HTTP server listens."""

WILDCARDS = ("", "*", "0.0.0.0", "::")  # noqa: S104  # compared with, not listened on


def parse_listen(listen: str) -> tuple[str | None, int]:
    """HOST:PORT, an IPv6 address with or without brackets, as asyncio takes it. Raises ValueError.

    A wildcard means every address of both families, as it does to gRPC: asyncio alone would listen
    on one of them.
    """
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal():
        raise ValueError(f"{listen!r}: expected HOST:PORT, such as [::]:7080")
    host = host.removeprefix("[").removesuffix("]")
    return (None if host in WILDCARDS else host), int(port)

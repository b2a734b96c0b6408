"""Checks of endpoints: host:port, or unix:/PATH for a socket of this machine."""

from ipaddress import IPv6Address

from partition_client.errors import InvalidEndpoint

PORT_MAX = 65535
SOCKET_SCHEME = "unix:"
SOCKET_PATH_BYTES_MAX = 107
"""The size of a Unix domain socket's path, as in Linux."""


def is_socket(endpoint: str) -> bool:
    """Whether an endpoint is a Unix domain socket. Such a connection has no TLS."""
    return endpoint.startswith(SOCKET_SCHEME)


def check_endpoint(endpoint: str) -> str:
    """Returns the endpoint. Raises InvalidEndpoint; its message names the mistake."""
    why = _fault(endpoint)
    if why:
        raise InvalidEndpoint(
            f"endpoint {endpoint!r} {why}; write host:port, such as example.default.svc:7000, or "
            "unix: and the absolute path of a socket"
        )
    return endpoint


def check_endpoints(endpoints: list[str]) -> list[str]:
    """Returns each endpoint once. Raises InvalidEndpoint."""
    if isinstance(endpoints, str):
        raise InvalidEndpoint(f"endpoints is the string {endpoints!r}; give a list of host:port")
    if not endpoints:
        raise InvalidEndpoint("endpoints is empty; name at least one replica as host:port")
    return list(dict.fromkeys(check_endpoint(endpoint) for endpoint in endpoints))


def _fault(endpoint: str) -> str:  # noqa: PLR0911  # one return per fault
    """Returns what is wrong with an endpoint, or "" if it is valid."""
    if not endpoint:
        return "is empty"
    if any(character.isspace() for character in endpoint):
        return "contains a space"
    if not (endpoint.isascii() and endpoint.isprintable()):
        return "contains a character that is not allowed in a host name"
    if is_socket(endpoint):
        return _socket_fault(endpoint.removeprefix(SOCKET_SCHEME))
    if "://" in endpoint:
        return "is a URL"
    if "/" in endpoint or "," in endpoint or "@" in endpoint:
        return "contains more than a host and a port"
    host, colon, port = endpoint.rpartition(":")
    if not colon or host.count("[") != host.count("]") or "]" in port:
        return "has no port"
    if not (port.isascii() and port.isdecimal() and 0 < int(port) <= PORT_MAX):
        return f"has the port {port!r}, which is not a number from 1 to {PORT_MAX}"
    if not host:
        return "has no host"
    return _host_fault(host)


def _socket_fault(path: str) -> str:
    if not path.startswith("/"):
        return "has no absolute path"
    if len(path) > SOCKET_PATH_BYTES_MAX:
        return f"has a path of more than {SOCKET_PATH_BYTES_MAX} bytes"
    return "has a comma in its path" if "," in path else ""


def _host_fault(host: str) -> str:
    bracketed = host.startswith("[") and host.endswith("]")
    if ":" in host and not bracketed:
        return "has more than one colon; an IPv6 address needs brackets, as in [::1]:7000"
    if not bracketed:
        return ""
    try:
        IPv6Address(host[1:-1])
    except ValueError:
        return "has an invalid IPv6 address in its brackets"
    return ""

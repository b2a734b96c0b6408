"""Checks of endpoints, which have the form host:port."""

from ipaddress import IPv6Address

from partition_client.errors import InvalidEndpoint

PORT_MAX = 65535


def check_endpoint(endpoint: str) -> str:
    """Returns the endpoint. Raises InvalidEndpoint; its message names the mistake."""
    why = _fault(endpoint)
    if why:
        raise InvalidEndpoint(
            f"endpoint {endpoint!r} {why}; write host:port, such as example.default.svc:7000"
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

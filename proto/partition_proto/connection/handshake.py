"""Finds the reason why TLS to an address fails.

gRPC reports each reason as UNAVAILABLE, like failures that pass. `refusal` makes a handshake of its
own to tell them apart. It blocks: call it on a thread.
"""

import socket
import ssl
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from partition_proto.connection import pem

TIMEOUT_S = 1.5
PORT_MAX = 65535
AGAIN_S = 0.1
"""Seconds until a second handshake, which must fail in the same way for a refusal to count. A
server that is stopping closes connections, too."""

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
_EXPIRED, _NOT_YET_VALID = 10, 9
_NAMES = (62, 64)
"""OpenSSL's X509_V_ERR_ numbers."""


@dataclass(frozen=True, slots=True)
class TlsRefusal:
    """`reason` is one of:

    SERVER_CERTIFICATE_EXPIRED, SERVER_CERTIFICATE_NOT_YET_VALID, SERVER_NAME_MISMATCH,
    SERVER_AUTHORITY (the server's certificate is not from a CA that we trust),
    OWN_CERTIFICATE_EXPIRED, OWN_CERTIFICATE_NOT_YET_VALID, OWN_CERTIFICATE_REFUSED,
    PLAINTEXT_PORT (the server does not use TLS), TLS_PORT (the server accepts only TLS).
    """

    reason: str
    message: str


def refusal(
    address: str, found: pem.Pem | None, server_name: str = "", timeout_s: float = TIMEOUT_S
) -> TlsRefusal | None:
    """Returns the TLS failure of `address` that only a change of the setup can fix.

    Returns None if there is no such failure, also if no server listens. found: our PEM content;
    None for a connection without TLS."""
    first = _try(address, found, server_name, timeout_s)
    if first is None:
        return None
    time.sleep(AGAIN_S)
    second = _try(address, found, server_name, timeout_s)
    return second if second is not None and second.reason == first.reason else None


def _try(
    address: str, found: pem.Pem | None, server_name: str, timeout_s: float
) -> TlsRefusal | None:
    host, port = split(address)
    if not port:
        return None
    try:
        connection = socket.create_connection((host, port), timeout_s)
    except (OSError, UnicodeError):  # UnicodeError: an invalid host name
        return None
    with connection:
        connection.settimeout(timeout_s)
        if found is None:
            return _try_plain(connection, address)
        return _try_tls(connection, address, found, server_name or host)


def split(address: str) -> tuple[str, int]:
    """Returns host and port of a gRPC target; port 0 if it has no valid port."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    return host.strip("[]"), int(port) if port.isdecimal() and int(port) <= PORT_MAX else 0


def _try_plain(connection: socket.socket, address: str) -> TlsRefusal | None:
    """Returns TLS_PORT if the server expects TLS, although we connect without it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        context.wrap_socket(connection).close()
    except ssl.SSLError as error:
        # An alert is a TLS message, too: this server requires a client certificate.
        if "ALERT" not in (error.reason or ""):
            return None
    except OSError:
        return None
    return TlsRefusal(
        "TLS_PORT", f"{address} requires TLS, but the call has none; give the TLS files"
    )


def _try_tls(
    connection: socket.socket, address: str, found: pem.Pem, server_name: str
) -> TlsRefusal | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    # As gRPC does: trust an intermediate CA without its issuer.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=found.authority.decode("ascii"))
    pem.load_chain(context, found)
    try:
        with context.wrap_socket(connection, server_hostname=server_name) as secure:
            secure.sendall(_PREFACE)
            if secure.recv(1):
                return None
    except ssl.SSLCertVerificationError as error:
        return _server_refused(error, address, server_name)
    except ssl.SSLError as error:
        if error.reason in ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"):
            return TlsRefusal(
                "PLAINTEXT_PORT",
                f"{address} does not use TLS; connect without the TLS files, or start it with TLS",
            )
        if "ALERT" not in (error.reason or ""):
            return None
    # OSError includes timeouts. ValueError: an invalid server name.
    except (OSError, ValueError):
        return None
    # gRPC's servers close without an alert if they reject the caller's certificate.
    return _own_refused(found, address)


def _server_refused(error: ssl.SSLCertVerificationError, address: str, name: str) -> TlsRefusal:
    if error.verify_code == _EXPIRED:
        return TlsRefusal(
            "SERVER_CERTIFICATE_EXPIRED", f"the certificate of {address} has expired; renew it"
        )
    if error.verify_code == _NOT_YET_VALID:
        return TlsRefusal(
            "SERVER_CERTIFICATE_NOT_YET_VALID",
            f"the certificate of {address} is not valid yet; compare the clocks",
        )
    if error.verify_code in _NAMES:
        return TlsRefusal(
            "SERVER_NAME_MISMATCH",
            f"the certificate of {address} is not valid for the name {name!r}; connect to a name "
            "in its certificate, or give such a name as the server name",
        )
    return TlsRefusal(
        "SERVER_AUTHORITY",
        f"the certificate of {address} is from a CA that ca.crt does not contain "
        f"({error.verify_message}); use ca.crt of the same Partition",
    )


def _own_refused(found: pem.Pem, address: str) -> TlsRefusal:
    own, now = pem.leaf(found), datetime.now(UTC)  # noqa: TID251  # as OpenSSL does
    if own is not None and own.not_after <= now:
        return TlsRefusal(
            "OWN_CERTIFICATE_EXPIRED",
            f"our own certificate expired at {own.not_after:%Y-%m-%dT%H:%M:%SZ}, so {address} "
            "rejects it; use the Secret's current certificate",
        )
    if own is not None and own.not_before > now:
        return TlsRefusal(
            "OWN_CERTIFICATE_NOT_YET_VALID",
            f"our own certificate is not valid before {own.not_before:%Y-%m-%dT%H:%M:%SZ}, so "
            f"{address} rejects it; compare the clocks",
        )
    return TlsRefusal(
        "OWN_CERTIFICATE_REFUSED",
        f"{address} rejects our certificate, most likely because another CA issued it; use the "
        "current tls.crt, tls.key and ca.crt of the same Partition",
    )

"""SSL contexts for connections that we open ourselves, beside gRPC's.

They check as gRPC's channels and servers do: both sides need a certificate of our certificate
authority, and a client checks the server's name. Each connection asks for the current context, so a
renewed certificate is used without a restart.
"""

import ssl
from collections.abc import Callable
from typing import Generic, TypeVar

from partition_proto.connection import pem

Context = TypeVar("Context")


def client_context(found: pem.Pem) -> ssl.SSLContext:
    """The context of the side that connects; it presents our certificate. Raises ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The names of a certificate are its alternative names; ours has no name as its subject.
    context.hostname_checks_common_name = False
    return _filled(context, found)


def server_context(found: pem.Pem) -> ssl.SSLContext:
    """The context of the side that accepts; it requires a client's certificate. Raises
    ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    # Connections live long: nobody resumes a session. A ticket would outlive its certificate.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    return _filled(context, found)


def _filled(context: ssl.SSLContext, found: pem.Pem) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # As gRPC does: trust an intermediate CA without its issuer.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=found.authority.decode("ascii"))
    pem.load_chain(context, found)
    return context


class RenewedContext(Generic[Context]):
    """The context of the current PEM files. For one event loop."""

    def __init__(
        self,
        files: Callable[[], tuple[int, pem.Pem]],
        make: Callable[[pem.Pem], Context],
    ) -> None:
        """files: RenewedPem.current, or another source of (version, content). make: makes a context
        of them, or what stands for one elsewhere."""
        self._files = files
        self._make = make
        self._version = 0
        self._context: Context | None = None

    def current(self) -> Context:
        """Raises BadPem if the files were never valid, and the errors of `make`."""
        version, found = self._files()
        if self._context is None or version != self._version:
            self._context, self._version = self._make(found), version
        return self._context

"""The TLS files that a replica uses now: what it reports of them, and how long they are valid."""

import hashlib
import re
import ssl
from collections.abc import Callable

from partition_proto.connection import pem
from partition_proto.connection.renewed import RenewedPem
from partition_proto.v1 import log_store_pb2 as api

from partition_replica.config import TlsFiles
from partition_replica.transport.authorization import Authorizer
from partition_replica.transport.client_list import FILE, BadClientList, ClientLists

_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
DAY_S = 86400.0


def fingerprints(content: bytes) -> list[str]:
    """Returns the SHA-256 of each certificate in PEM, in order, in hexadecimal."""
    blocks = [match[0].decode("ascii") for match in _BLOCK.finditer(content)]
    return [hashlib.sha256(ssl.PEM_cert_to_DER_cert(block)).hexdigest() for block in blocks]


def list_beside(tls: TlsFiles, heard: Callable[[BadClientList | None], None]) -> ClientLists:
    """Returns the client identities that are mounted beside the certificate. heard: see
    ClientLists."""
    return ClientLists(tls.certificate.parent / FILE, heard)


class FilesInUse:
    """Reads the files as the server does. For one event loop. Raises BadPem at first if they can't
    be used."""

    def __init__(
        self, tls: TlsFiles, clients: ClientLists, authorizer: Authorizer, wall: Callable[[], float]
    ) -> None:
        """wall: the time since 1970, in seconds."""
        self._wall = wall
        self._files = RenewedPem(tls)  # the server's own reader tells of files that are bad
        self._clients = clients
        self._authorizer = authorizer
        self._version = -1
        self._status = api.TlsStatus()
        self._expires: float | None = None
        self._read()

    def status(self) -> api.TlsStatus:
        """Returns what GetStatus reports."""
        self._read()
        self._status.clients = self._clients.current().fingerprint
        self._status.refused_calls = self._authorizer.refused_calls
        self._status.refused_last = self._authorizer.refused_last
        return self._status

    def days_left(self) -> float:
        """Returns the days until the replica's own certificate expires; negative afterwards, NaN
        if the certificate can't be shown."""
        self._read()
        return float("nan") if self._expires is None else (self._expires - self._wall()) / DAY_S

    def _read(self) -> None:
        version, found = self._files.current()
        if version == self._version:
            return
        leaf = pem.leaf(found)
        self._version = version
        self._expires = None if leaf is None else leaf.not_after.timestamp()
        own = fingerprints(found.certificate)
        trusted = sorted(set(fingerprints(found.authority)))
        self._status = api.TlsStatus(trusted=trusted, certificate=own[0] if own else "")

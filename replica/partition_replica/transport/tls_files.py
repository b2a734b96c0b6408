"""What a replica reports of the TLS files that it uses now."""

import hashlib
import re
import ssl
from collections.abc import Callable

from partition_proto.connection.renewed import RenewedPem
from partition_proto.v1 import log_store_pb2 as api

from partition_replica.config import TlsFiles
from partition_replica.transport.authorization import Authorizer
from partition_replica.transport.client_list import FILE, BadClientList, ClientLists

_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


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

    def __init__(self, tls: TlsFiles, clients: ClientLists, authorizer: Authorizer) -> None:
        self._files = RenewedPem(tls)  # the server's own reader tells of files that are bad
        self._clients = clients
        self._authorizer = authorizer
        self._version = -1
        self._status = api.TlsStatus()
        self._read()

    def status(self) -> api.TlsStatus:
        """Returns what GetStatus reports."""
        self._read()
        self._status.clients = self._clients.current().fingerprint
        self._status.refused_calls = self._authorizer.refused_calls
        self._status.refused_last = self._authorizer.refused_last
        return self._status

    def _read(self) -> None:
        version, found = self._files.current()
        if version == self._version:
            return
        self._version = version
        own = fingerprints(found.certificate)
        trusted = sorted(set(fingerprints(found.authority)))
        self._status = api.TlsStatus(trusted=trusted, certificate=own[0] if own else "")

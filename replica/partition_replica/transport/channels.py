"""Creates all channels, server ports and their credentials.

They use mutual TLS from mounted files, or plain text if the configuration requests it. A URI in the
certificate identifies a party: `logstore://<namespace>/<partition>/<role>`. The role is replica,
operator or client.
"""

import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import grpc
from partition_proto.connection import pem
from partition_proto.connection.channel import (
    CredentialSource,
    FromFiles,
    Insecure,
    RenewedChannel,
)
from partition_proto.connection.renewed import Heard, RenewedPem

from partition_replica.config import TlsFiles
from partition_replica.core.addresses import SOCKET_SCHEME

PEER_MESSAGE_BYTES_MAX = 16 * 1024**2
CLIENT_MESSAGE_BYTES_MAX = 4 * 1024**2

SERVER_OPTIONS = [
    ("grpc.max_receive_message_length", PEER_MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", PEER_MESSAGE_BYTES_MAX),
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 2_000),
    ("grpc.http2.max_ping_strikes", 0),
]

PEER_OPTIONS = [
    ("grpc.max_receive_message_length", PEER_MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", PEER_MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # gRPC also uses this as the time-out of a connection attempt, TLS included. 100 ms would be too
    # short for a slow network or a busy machine.
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A restarted pod has a new address under the same name.
    ("grpc.dns_min_time_between_resolutions_ms", 500),
    ("grpc.enable_retries", 0),
    # Members share a Kubernetes cluster: the environment's proxy is for addresses outside it.
    ("grpc.enable_http_proxy", 0),
]


def peer_credentials(tls: TlsFiles | None, heard: Heard = lambda _: None) -> FromFiles | Insecure:
    """Credentials for all channels to other members, read again when the files change."""
    return Insecure() if tls is None else FromFiles(tls, heard)


def peer_channel(address: str, credentials: CredentialSource) -> RenewedChannel:
    """A channel to another member. It reconnects on its own, with the certificate of that time.
    Raises BadPem."""
    return RenewedChannel(address, credentials, PEER_OPTIONS)


def add_port(
    server: grpc.aio.Server,
    listen: str,
    tls: TlsFiles | None,
    heard: Heard = lambda _: None,
    accepted: Callable[[], None] = lambda: None,
) -> int:
    """Listens, and returns the port. With TLS, every client needs a certificate of our certificate
    authority, and a renewed server certificate is used without a restart. Raises BadPem.

    accepted: called on gRPC's threads for each TLS connection, before its handshake. gRPC does not
    tell whether the handshake succeeds."""
    if tls is None:
        return server.add_insecure_port(listen)
    files = RenewedPem(tls, heard)
    version, first = files.current()
    credentials = grpc.dynamic_ssl_server_credentials(
        _configuration(first),
        _Fetcher(files, version, accepted),  # type: ignore[arg-type]  # None, for unchanged, is missing in the stubs
        require_client_authentication=True,
    )
    return server.add_secure_port(listen, credentials)


SOCKET_MODE = 0o660
"""Who may connect to the socket: its owner and its group."""


def add_socket(server: grpc.aio.Server, address: str) -> None:
    """Listens at unix:PATH, without TLS. A socket that an earlier process left is replaced. Raises
    OSError if something else is there or if the folder can't be written."""
    path = Path(address.removeprefix(SOCKET_SCHEME))
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(f"{path} is not a socket: remove it, or set another --socket")
        path.unlink()
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"--socket {address}: can't listen there; is its folder missing?") from error
    # Until here only the owner may connect: connecting needs the right to write.
    path.chmod(SOCKET_MODE)


def _configuration(found: pem.Pem) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(found.key, found.certificate)], found.authority
    )


class _Fetcher:
    """gRPC calls it at each handshake, on its own threads. None means unchanged."""

    def __init__(self, files: RenewedPem, version: int, accepted: Callable[[], None]) -> None:
        self._files = files
        self._version = version
        self._accepted = accepted

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        self._accepted()
        version, found = self._files.current()
        if version == self._version:
            return None
        self._version = version
        return _configuration(found)

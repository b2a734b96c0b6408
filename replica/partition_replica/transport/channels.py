"""The one place where channels, servers and their credentials are made.

Mutual TLS from mounted files; plain text only where the configuration asks for it. A party is known
by a URI in its certificate, `logstore://<namespace>/<partition>/<role>`: role is replica, operator
or client.
"""

from collections.abc import Callable
from pathlib import Path

import grpc

from partition_replica.config import TlsFiles

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
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A pod that comes back has another address under the same name.
    ("grpc.dns_min_time_between_resolutions_ms", 500),
    ("grpc.enable_retries", 0),
]


def peer_channel(address: str, tls: TlsFiles | None) -> grpc.aio.Channel:
    """A channel to another member; reconnects by itself."""
    if tls is None:
        return grpc.aio.insecure_channel(address, options=PEER_OPTIONS)
    return grpc.aio.secure_channel(address, client_credentials(tls), options=PEER_OPTIONS)


def client_credentials(tls: TlsFiles) -> grpc.ChannelCredentials:
    """Of whoever calls: its own certificate, and the authority that the other one's comes from."""
    return grpc.ssl_channel_credentials(
        root_certificates=_read(tls.authority),
        private_key=_read(tls.key),
        certificate_chain=_read(tls.certificate),
    )


def add_port(server: grpc.aio.Server, listen: str, tls: TlsFiles | None) -> int:
    """Listens; returns the port. With TLS every client needs a certificate of our authority, and a
    renewed server certificate is picked up without a restart."""
    if tls is None:
        return server.add_insecure_port(listen)
    credentials = grpc.dynamic_ssl_server_credentials(
        _configuration(tls),
        _fetcher(tls),  # type: ignore[arg-type]  # None, for unchanged, is missing in the stubs
        require_client_authentication=True,
    )
    return server.add_secure_port(listen, credentials)


def _configuration(tls: TlsFiles) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(_read(tls.key), _read(tls.certificate))], _read(tls.authority)
    )


def _fetcher(tls: TlsFiles) -> Callable[[], grpc.ServerCertificateConfiguration | None]:
    """Called at each handshake; None means unchanged."""
    seen = _stamp(tls)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal seen
        now = _stamp(tls)
        if now == seen:
            return None
        configuration = _configuration(tls)
        seen = now
        return configuration

    return fetch


def _stamp(tls: TlsFiles) -> tuple[int, ...]:
    return tuple(path.stat().st_mtime_ns for path in (tls.certificate, tls.key, tls.authority))


def _read(path: Path) -> bytes:
    return path.read_bytes()

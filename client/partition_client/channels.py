"""The one place where the client makes channels."""

from dataclasses import dataclass
from pathlib import Path

import grpc

OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.max_receive_message_length", 16 * 1024**2),
    ("grpc.max_send_message_length", 16 * 1024**2),
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.dns_min_time_between_resolutions_ms", 500),
    ("grpc.enable_retries", 0),
]


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files: own certificate and key, and the authority of the replicas'.

    server_name: the name that the replicas' certificate carries, where they are dialled by another
    (an IP, a forwarded port).
    """

    certificate: Path
    key: Path
    authority: Path
    server_name: str = ""

    @classmethod
    def in_directory(cls, folder: Path, server_name: str = "") -> "Tls":
        """tls.crt, tls.key and ca.crt, as a mounted Secret has them."""
        return cls(folder / "tls.crt", folder / "tls.key", folder / "ca.crt", server_name)


def open_channel(address: str, tls: Tls | None) -> grpc.aio.Channel:
    """A channel to one replica."""
    if tls is None:
        return grpc.aio.insecure_channel(address, options=OPTIONS)
    options = list(OPTIONS)
    if tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    credentials = grpc.ssl_channel_credentials(
        root_certificates=tls.authority.read_bytes(),
        private_key=tls.key.read_bytes(),
        certificate_chain=tls.certificate.read_bytes(),
    )
    return grpc.aio.secure_channel(address, credentials, options=options)

"""The one place where the client makes channels."""

import logging
from dataclasses import dataclass
from pathlib import Path

from partition_proto.connection.channel import CredentialSource, FromFiles, Insecure, RenewedChannel
from partition_proto.connection.pem import BadPem, PemFiles

logger = logging.getLogger(__name__)

OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.max_receive_message_length", 16 * 1024**2),
    ("grpc.max_send_message_length", 16 * 1024**2),
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # The time that a connection gets, TLS included: a tenth of a second is too little for a slow
    # network or a busy machine.
    ("grpc.min_reconnect_backoff_ms", 1_000),
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


def credentials(tls: Tls | None) -> FromFiles | Insecure:
    """Of the files, which are read again when they change; shared by channels to one group."""
    if tls is None:
        return Insecure()
    return FromFiles(PemFiles(tls.certificate, tls.key, tls.authority), _report)


def _report(problem: BadPem | None) -> None:
    if problem is None:
        logger.info("the TLS files are good again")
    else:
        logger.warning("the TLS files changed and are not used, the former ones are: %s", problem)


def open_channel(
    address: str,
    tls: Tls | None,
    *,
    use_proxy: bool = False,
    shared: CredentialSource | None = None,
) -> RenewedChannel:
    """A channel to one replica. Raises BadPem.

    use_proxy: go through the proxy that the environment names (grpc_proxy, https_proxy or
    http_proxy, but for hosts of no_proxy). shared: what `credentials(tls)` returned.
    """
    options = [*OPTIONS, ("grpc.enable_http_proxy", int(use_proxy))]
    if tls is not None and tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return RenewedChannel(address, shared or credentials(tls), options)

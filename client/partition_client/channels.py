"""The gRPC channels of the client. No other module opens one."""

import logging
from dataclasses import dataclass
from pathlib import Path

from partition_proto.connection.channel import CredentialSource, FromFiles, Insecure, RenewedChannel
from partition_proto.connection.pem import BadPem, PemFiles

from partition_client.endpoints import is_socket

logger = logging.getLogger(__name__)

OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.max_receive_message_length", 16 * 1024**2),
    ("grpc.max_send_message_length", 16 * 1024**2),
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Also the time limit of a connection attempt, TLS included. A tenth of a second is too short
    # for a slow network or a busy machine.
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.dns_min_time_between_resolutions_ms", 500),
    ("grpc.enable_retries", 0),
]


@dataclass(frozen=True, slots=True)
class Tls:
    """Paths of PEM files: the client's certificate and key, and the certificate authority (CA) of
    the replicas.

    server_name: the name in the replicas' certificate, if the endpoints have other names (an IP, a
    forwarded port).
    """

    certificate: Path
    key: Path
    authority: Path
    server_name: str = ""

    @classmethod
    def in_directory(cls, folder: Path, server_name: str = "") -> "Tls":
        """Uses tls.crt, tls.key and ca.crt in a directory, such as a mounted Secret."""
        return cls(folder / "tls.crt", folder / "tls.key", folder / "ca.crt", server_name)


def credentials(tls: Tls | None) -> FromFiles | Insecure:
    """Returns credentials from the files, which are read again when they change. All channels to
    one group share them."""
    if tls is None:
        return Insecure()
    return FromFiles(PemFiles(tls.certificate, tls.key, tls.authority), _report)


def _report(problem: BadPem | None) -> None:
    if problem is None:
        logger.info("the TLS files are valid again")
    else:
        logger.warning("the new TLS files are invalid; the former ones stay in use: %s", problem)


def open_channel(
    address: str,
    tls: Tls | None,
    *,
    use_proxy: bool = False,
    shared: CredentialSource | None = None,
) -> RenewedChannel:
    """Returns a channel to one replica. Raises BadPem.

    use_proxy: connect through the proxy in grpc_proxy, https_proxy or http_proxy of the
    environment, except to hosts in no_proxy. shared: what `credentials(tls)` returned. A socket of
    this machine is used without TLS: the mode of its file decides about access.
    """
    if is_socket(address):
        return RenewedChannel(address, Insecure(), OPTIONS)
    options = [*OPTIONS, ("grpc.enable_http_proxy", int(use_proxy))]
    if tls is not None and tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return RenewedChannel(address, shared or credentials(tls), options)

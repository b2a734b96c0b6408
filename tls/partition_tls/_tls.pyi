"""Types of the compiled module. Sizes and offsets are bytes, times are seconds."""

from typing import final

class BadConfig(Exception): ...
class ConnectionFailed(Exception): ...

@final
class ClientConfig:
    """What the side that connects presents and trusts, as PEM. TLS 1.2 or 1.3; nothing is resumed.
    Raises BadConfig."""

    def __init__(self, authority: bytes, certificate: bytes, key: bytes) -> None: ...

@final
class ServerConfig:
    """What the side that accepts presents and trusts. It requires a certificate of the authority.
    Raises BadConfig."""

    def __init__(self, authority: bytes, certificate: bytes, key: bytes) -> None: ...

@final
class Sha256:
    """Of content that arrives in parts."""

    def __init__(self) -> None: ...
    def digest(self) -> bytes:
        """Of all parts so far: 32 bytes."""

@final
class Connection:
    @staticmethod
    def connect(
        descriptor: int, config: ClientConfig | None, server_name: str, timeout_s: float
    ) -> Connection:
        """Makes the handshake. Takes a connected socket over, also if that fails. config: None
        without TLS. server_name: a DNS name or an IP address, which the certificate must have.
        Raises ConnectionFailed."""

    @staticmethod
    def accept(descriptor: int, config: ServerConfig | None, timeout_s: float) -> Connection:
        """As `connect`, for the side that accepts."""

    def peer_names(self) -> list[str]:
        """The URI names of the other side's certificate; none without TLS. Raises
        ConnectionFailed."""

    def set_timeout(self, seconds: float) -> None:
        """For each read and write of the socket from now on. Raises ConnectionFailed."""

    def write(self, data: bytes) -> None:
        """Writes all of it. Raises ConnectionFailed."""

    def read(self, count: int) -> bytes:
        """Reads exactly `count` bytes, at most 1 MiB. Raises ConnectionFailed."""

    def send_content(self, descriptor: int, offset: int, count: int) -> int:
        """Sends `count` bytes of an open file. Returns how many were sent: fewer if the file ends
        before. Raises ConnectionFailed, OSError."""

    def receive_content(self, descriptor: int, count: int, digest: Sha256) -> None:
        """Writes the next `count` bytes to an open file, at its position, and adds them to the
        digest. Nothing is synced. Raises ConnectionFailed, OSError."""

    def shutdown(self) -> None:
        """Ends the connection for both sides, and a running call with ConnectionFailed. The socket
        is closed when nothing refers to the connection any more."""

"""What the Raft streams and Raft connections of a replica report, for its metrics."""

from typing import Protocol

STREAM = "stream"
"""Over a gRPC stream."""

CONNECTION = "connection"
"""Over a Raft connection."""


class RaftTraffic(Protocol):
    """Counts Raft messages by their way: STREAM or CONNECTION. On the event loop."""

    def sent(self, way: str, messages: int, size: int) -> None:
        """`size`: the bytes of these messages."""
        ...

    def received(self, way: str, messages: int, size: int) -> None: ...

    def sending(self, way: str, change: int) -> None:
        """One member more (1) or less (-1) is sent messages in this way."""
        ...

    def refused(self, reason: str) -> None:
        """A Raft connection was refused: its certificate, its first bytes or its hello."""
        ...


class NotCounted:
    """A RaftTraffic of which nobody keeps account."""

    def sent(self, way: str, messages: int, size: int) -> None: ...
    def received(self, way: str, messages: int, size: int) -> None: ...
    def sending(self, way: str, change: int) -> None: ...
    def refused(self, reason: str) -> None: ...

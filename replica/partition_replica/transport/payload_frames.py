"""The frames of a payload connection, as peer.proto describes them, on a blocking connection.

They are those of a Raft connection, with kinds of their own. A payload's content is in no frame.
"""

from google.protobuf.message import DecodeError, Message
from partition_proto.v1 import peer_pb2 as api
from partition_tls import Connection

from partition_replica.core.limits import RAFT_HELLO_BYTES_MAX
from partition_replica.transport.raft_frames import HEADER, REFUSAL, BadFrame, frame

PREAMBLE = b"LSPAYL" + (1).to_bytes(2, "big")
"""What a sender begins with, before TLS: the protocol's name and its version."""

OFFER, WANTED, STORED = 4, 5, 6
"""Kinds of frames, beside HELLO and REFUSAL."""


class Refused(Exception):
    """The member refused. `reason`: a Reason without its prefix, or PERMISSION_DENIED."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.text = message


def send(connection: Connection, kind: int, message: Message | None = None) -> None:
    """Raises ConnectionFailed."""
    connection.write(frame(kind, b"" if message is None else message.SerializeToString()))


def answer(connection: Connection, *kinds: int) -> tuple[int, bytes]:
    """As `receive`, of the side that may refuse. Raises Refused, too."""
    kind, content = receive(connection, *kinds, REFUSAL)
    if kind == REFUSAL:
        try:
            refusal = api.RaftRefusal.FromString(content)
        except DecodeError as error:
            raise BadFrame(f"a refusal can't be decoded: {error}") from error
        raise Refused(refusal.reason, refusal.message)
    return kind, content


def receive(connection: Connection, *kinds: int) -> tuple[int, bytes]:
    """Returns (kind, content) of the next frame, of at most RAFT_HELLO_BYTES_MAX. Raises
    ConnectionFailed, and BadFrame for another kind."""
    kind, size = HEADER.unpack(connection.read(HEADER.size))
    if size > RAFT_HELLO_BYTES_MAX:
        raise BadFrame(
            f"a frame of {size} bytes is announced; at most {RAFT_HELLO_BYTES_MAX} are allowed here"
        )
    content = connection.read(size) if size else b""
    if kind not in kinds:
        raise BadFrame(f"a frame of kind {kind} came; of kind {kinds} is expected")
    return kind, content

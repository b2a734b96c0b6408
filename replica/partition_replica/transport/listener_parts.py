"""What the connections of other members have in common: the parts of a replica that they use, and
the check of who may open one."""

from dataclasses import dataclass, field

from google.protobuf.message import DecodeError
from partition_proto.v1 import peer_pb2 as api

from partition_replica.core.services import PeerRequestService
from partition_replica.errors import InvalidArgument
from partition_replica.transport.authorization import Authorizer
from partition_replica.transport.failures import Failures
from partition_replica.transport.greetings import Greetings
from partition_replica.transport.raft_traffic import NotCounted, RaftTraffic
from partition_replica.transport.streams import Streams


@dataclass(frozen=True, slots=True)
class ListenerParts:
    """The parts of a replica that other members' connections use. authorizer: None without TLS."""

    replica: PeerRequestService
    greetings: Greetings
    streams: Streams
    failures: Failures
    authorizer: Authorizer | None = None
    traffic: RaftTraffic = field(default_factory=NotCounted)


class Forbidden(Exception):
    """The certificate is of another role or Partition."""


def received_hello(
    parts: ListenerParts, method: str, content: bytes, names: list[str]
) -> api.Hello:
    """Returns the hello of a connection, decoded. method: the RPC whose role the connection needs.
    names: the URI names of the certificate. Raises Forbidden, InvalidArgument."""
    refusal = parts.authorizer.refusal(method, names) if parts.authorizer else ""
    if refusal:
        raise Forbidden(refusal)
    try:
        return api.Hello.FromString(content)
    except DecodeError as error:
        raise InvalidArgument(f"the first frame is not a Hello: {error}") from error

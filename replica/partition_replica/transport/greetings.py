"""Lets other members in by their hellos, and knows which members have a stream or a Raft connection
here."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from partition_proto.v1 import peer_pb2 as api

from partition_replica.core.services import PeerRequestService
from partition_replica.errors import InvalidArgument
from partition_replica.transport.requests import check_request


class Greetings:
    """On the event loop."""

    def __init__(
        self, replica: PeerRequestService, raft_port: Callable[[], int] = lambda: 0
    ) -> None:
        """raft_port: the port for Raft connections, 0 if there is none."""
        self._replica = replica
        self._raft_port = raft_port
        self._present: Counter[int] = Counter()
        self._incarnations: dict[int, int] = {}
        """Of the present members: the process that each was let in with."""

    def let_in(self, hello: api.Hello) -> int:
        """Returns the member that sends the hello. Raises InvalidArgument, WrongCluster,
        NotBootstrapped."""
        check_request(hello)
        if not hello.member_id:
            raise InvalidArgument("the hello has no member_id: set it to the sender's member ID")
        if not hello.to_member_id:
            raise InvalidArgument(
                "the hello has no to_member_id: set it to the receiver's member ID"
            )
        member = hello.member_id
        # The same process, which moves to another way meanwhile. What it acknowledged on the first
        # one may have overtaken this hello, so its last index says nothing.
        moves = self._present[member] > 0 and self._incarnations.get(member) == hello.incarnation
        self._replica.check_peer(
            hello.cluster_id, hello.to_member_id, 0 if moves else member, hello.last_index
        )
        self._incarnations[member] = hello.incarnation
        self._replica.greet(member, hello.address)
        return member

    def own(self) -> api.Hello:
        """The answer to a hello."""
        status = self._replica.status()
        return api.Hello(
            cluster_id=status.cluster,
            member_id=status.member,
            incarnation=status.incarnation,
            last_index=status.last_index,
            raft_port=self._raft_port(),
            payload_connections=bool(self._raft_port()),
        )

    @contextmanager
    def present(self, member: int) -> Iterator[None]:
        """A member that was let in has one more stream or Raft connection until the end of the
        with-statement. After the last one, the replica is told."""
        self._present[member] += 1
        try:
            yield
        finally:
            self._present[member] -= 1
            if not self._present[member]:
                del self._present[member]
                self._incarnations.pop(member, None)
                self._replica.disconnected(member)

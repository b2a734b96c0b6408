"""The fencing token: the Lease's transition count at the time of a command.

Replicas store the highest token durably and refuse a command with a lower one. So a deposed
operator can change nothing, even before it notices that it was deposed.
"""

from partition_proto.v1 import replica_admin_pb2 as admin


class FencingToken:
    """The token in every command of this operator. All clients share one object, so a raise applies
    to each of them."""

    def __init__(self, holder: str, transitions: int) -> None:
        """holder: the name of this process, for messages. transitions: leaseTransitions of the
        Lease."""
        self._holder = holder
        self._transitions = transitions

    @property
    def transitions(self) -> int:
        return self._transitions

    def raise_to(self, transitions: int) -> None:
        """Raises the token, after the Lease. It never falls: replicas would refuse lower tokens."""
        self._transitions = max(self._transitions, transitions)

    def message(self) -> admin.FencingToken:
        """Returns the token as a message for a command."""
        return admin.FencingToken(transitions=self._transitions, holder=self._holder)

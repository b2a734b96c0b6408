"""The fencing token: which turn at leading a command belongs to.

Replicas remember the highest token durably and refuse a command with a lower one. So a deposed
operator can change nothing, even if it has not heard that it was deposed.
"""

from partition_proto.v1 import replica_admin_pb2 as admin


class FencingToken:
    """What every command of this operator carries. One object is shared by all clients, so that
    raising it reaches each of them."""

    def __init__(self, holder: str, transitions: int) -> None:
        """holder: this process, for people. transitions: the Lease's leaseTransitions."""
        self._holder = holder
        self._transitions = transitions

    @property
    def transitions(self) -> int:
        return self._transitions

    def raise_to(self, transitions: int) -> None:
        """After the Lease was. It never falls: replicas would refuse what follows."""
        self._transitions = max(self._transitions, transitions)

    def message(self) -> admin.FencingToken:
        """As it stands in a command."""
        return admin.FencingToken(transitions=self._transitions, holder=self._holder)

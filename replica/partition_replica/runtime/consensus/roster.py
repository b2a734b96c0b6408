"""The leader and the members' addresses, as far as this member knows."""


class Roster:
    """The Raft loop writes `leader`, the member writes `addresses`. On the event loop."""

    def __init__(self) -> None:
        self.leader = 0
        """The leader's member ID; 0 while no leader is known."""
        self.addresses: dict[int, str] = {}
        """Addresses by member ID, as of the applied configuration."""

    def address(self, member: int) -> str:
        """The address of `member`, or "" if it is not known."""
        return self.addresses.get(member, "")

    @property
    def leading(self) -> tuple[int, str]:
        """(member ID, address) of the leader; (0, "") while no leader is known."""
        return self.leader, self.address(self.leader) if self.leader else ""

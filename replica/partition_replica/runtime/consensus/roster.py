"""Who leads, and where each member is reached, as far as this member knows."""


class Roster:
    """The Raft loop writes `leader`, the member writes `addresses`. On the event loop."""

    def __init__(self) -> None:
        self.leader = 0
        """Its member ID; 0 while none is known."""
        self.addresses: dict[int, str] = {}
        """By member ID, as of the applied configuration."""

    def address(self, member: int) -> str:
        """ "" if it is not known."""
        return self.addresses.get(member, "")

    @property
    def leading(self) -> tuple[int, str]:
        """(member ID, address) of the leader; (0, "") while none is known."""
        return self.leader, self.address(self.leader) if self.leader else ""

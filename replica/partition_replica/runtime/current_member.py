"""The member that runs in this process, or the reason why no member runs."""

from partition_replica.core.ports import LogView
from partition_replica.errors import (
    NoLeader,
    NotBootstrapped,
    NotLeader,
    Stopping,
    WrongCluster,
    not_leading,
)
from partition_replica.runtime.member import Member


class CurrentMember:
    """The parts of a replica ask it for the member first. On the event loop."""

    def __init__(self, log: LogView) -> None:
        self._log = log
        self.member: Member | None = None
        self.stopping = False
        self.held = False
        """Whether proposals are refused, because enabling replication replaces the member."""

    def running(self) -> Member:
        """Raises Stopping, NoLeader while the member is being replaced, and NotBootstrapped."""
        if self.stopping:
            raise Stopping("this replica is stopping: use another replica")
        if self.member is None and self.held:
            raise NoLeader("replication is being enabled: retry in a moment")
        if self.member is None:
            raise NotBootstrapped(
                "this volume belongs to no cluster yet: wait until the operator bootstraps it"
            )
        return self.member

    def leading(self) -> Member:
        """The member, if it leads. Raises NotLeader or NoLeader too."""
        member = self.running()
        if member.loop.role != "leader":
            raise self.not_leader(member)
        return member

    def not_leader(self, member: Member) -> NotLeader | NoLeader:
        """The error of a member that does not lead, with the leader if it is known."""
        return not_leading("this replica does not lead", member.leader)

    def check_cluster(self, cluster: str) -> None:
        """Raises WrongCluster unless this volume belongs to `cluster`."""
        own = self._log.identity.cluster_id
        if cluster != own:
            raise WrongCluster(
                f"this volume belongs to cluster {own or '(none)'}, not {cluster or '(none)'}: use "
                "a new volume, or adopt this one explicitly (spec.bootstrap.adopt)"
            )

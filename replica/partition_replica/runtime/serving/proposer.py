"""Proposes entries at a leader, unless this replica refuses writes now."""

from partition_replica.core.limits import Limits
from partition_replica.core.model import Applied
from partition_replica.core.proposed_entry import ProposedEntry
from partition_replica.core.validation import passes_full_disk
from partition_replica.errors import DiskFull, NoLeader, Overloaded
from partition_replica.runtime.consensus.proposals import AwaitedProposal
from partition_replica.runtime.current_member import CurrentMember
from partition_replica.runtime.disk import DiskWatch
from partition_replica.runtime.member import Member


class Proposer:
    """On the event loop."""

    def __init__(self, limits: Limits, disk: DiskWatch, current: CurrentMember) -> None:
        self._limits = limits
        self._disk = disk
        self._current = current

    def check(self, member: Member) -> None:
        """Raises NoLeader, NotLeader or Overloaded if no entry can be proposed now."""
        member.check_serving()
        if self._current.held:
            raise NoLeader("replication is being enabled: retry in a moment")
        if member.applier.lag > self._limits.apply_lag_max:
            raise Overloaded(
                f"{member.applier.lag} entries are committed but not applied, at most "
                f"{self._limits.apply_lag_max} are allowed: retry with backoff"
            )

    def check_room(self, entry: ProposedEntry) -> None:
        """Raises DiskFull if the volume has no room for this entry."""
        if self._disk.full() and not passes_full_disk(entry.body):
            raise DiskFull(
                f"the volume has {self._disk.free_bytes} bytes free, below its reserve: writes are "
                "refused, deletes and reads still work. Make room or grow the volume"
            )

    async def propose(self, member: Member, entry: ProposedEntry, *, wait_applied: bool) -> Applied:
        """Returns once the entry is committed, or applied. Raises as the checks, and the refusals
        of `proposals.refusal`."""
        self.check(member)
        self.check_room(entry)
        pending = AwaitedProposal(entry, wait_applied=wait_applied)
        member.loop.propose([pending])
        return await pending.future

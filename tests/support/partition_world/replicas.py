"""What the volumes hold, and the Raft group that the replicas form.

The log of the group is a number: the index of its last acknowledged entry. A volume holds a prefix
of it. A change of the configuration is an entry. A replica knows the last configuration in its own
prefix, and that decides in which elections it counts. What a leader has not had acknowledged is
gone with it, which Raft allows and does not demand.
"""

from dataclasses import dataclass, field

from tests.support.partition_world.errors import Refused, Violation

ACTIVE_TICKS = 2
"""For so long a member that answers no more counts as active."""
LAG_MAX = 1000
"""As the replica has it: a learner further behind is not promoted."""


@dataclass
class Volume:
    """member: drawn once per volume. cluster: "" for a volume that belongs to no group. matched:
    the last entry that it holds. backfilled: of a backfill, the number of ticks that it has taken;
    None without one. slow: entries per tick that it takes over, if it is slow."""

    member: int
    cluster: str = ""
    matched: int = 0
    standalone: bool = False
    backfilled: int | None = None
    switching: bool = False
    fenced: bool = False
    slow: int = 0


@dataclass(frozen=True)
class Configuration:
    voters: frozenset[int]
    learners: frozenset[int] = frozenset()

    @property
    def members(self) -> frozenset[int]:
        return self.voters | self.learners


def majority(voters: int) -> int:
    return voters // 2 + 1


@dataclass
class Group:
    """history: each configuration with the index of its entry. heard: when each member answered the
    leader last, in ticks. robbed: a fault has taken a member's data, so that acknowledged entries
    may be lost by it. lost: entries that were acknowledged and are gone."""

    cluster: str
    history: list[tuple[int, Configuration]]
    addresses: dict[int, int]
    acknowledged: int
    term: int = 1
    leader: int = 0
    serving: bool = False
    pending: Configuration | None = None
    heard: dict[int, int] = field(default_factory=dict)
    robbed: bool = False
    lost: int = 0
    tick: int = 0

    @property
    def configuration(self) -> Configuration:
        return self.history[-1][1]

    def view(self, volume: Volume) -> Configuration | None:
        """The configuration that a replica knows; None before it has one."""
        known = [one for index, one in self.history if index <= volume.matched]
        return known[-1] if known else None

    def active(self, member: int) -> bool:
        """As the leader reports it."""
        return member == self.leader or self.tick - self.heard.get(member, -9) <= ACTIVE_TICKS

    def pass_tick(self, volumes: dict[int, Volume], up: frozenset[int], written: int) -> None:
        """volumes: all that exist, by member. up: the members whose replicas run and reach each
        other. written: entries that clients append, if somebody leads."""
        self.tick += 1
        if self.leader and not self._leads(up):
            self._depose(volumes)
        elif not self.leader:
            self._elect(volumes, up)
        elif not self.serving:
            self.serving = True
        else:
            self._replicate(volumes, up, written)

    def _leads(self, up: frozenset[int]) -> bool:
        if self.leader not in up:
            return False
        for member in up:
            self.heard[member] = self.tick
        voters = self.configuration.voters
        return sum(self.active(m) for m in voters) >= majority(len(voters))

    def _depose(self, volumes: dict[int, Volume]) -> None:
        self.leader, self.serving, self.pending = 0, False, None
        self.heard.clear()
        for volume in volumes.values():
            volume.matched = min(volume.matched, self.acknowledged)

    def _elect(self, volumes: dict[int, Volume], up: frozenset[int]) -> None:
        running = sorted((volumes[m] for m in up), key=lambda v: (-v.matched, v.member))
        for candidate in running:
            view = self.view(candidate)
            if view is None or candidate.member not in view.voters:
                continue
            votes = [v for v in running if v.member in view.voters]
            granted = sum(v.matched <= candidate.matched for v in votes)
            if granted >= majority(len(view.voters)):
                self._won(candidate, volumes)
                return

    def _won(self, winner: Volume, volumes: dict[int, Volume]) -> None:
        if winner.matched < self.acknowledged:
            if not self.robbed:
                raise Violation(
                    f"{self.acknowledged - winner.matched} acknowledged entries are lost: member "
                    f"{winner.member} leads without them"
                )
            self.lost += self.acknowledged - winner.matched
            self.acknowledged = winner.matched
            self.history = [one for one in self.history if one[0] <= winner.matched]
            for volume in volumes.values():
                volume.matched = min(volume.matched, winner.matched)
        self.term += 1
        self.leader = winner.member
        self.heard = {winner.member: self.tick}

    def _replicate(self, volumes: dict[int, Volume], up: frozenset[int], written: int) -> None:
        leader, members = volumes[self.leader], self.configuration.members
        leader.matched += written
        for member in up & members - {self.leader}:
            volume = volumes[member]
            step = volume.slow or (leader.matched if volume.matched else 1)
            # The first tick of an empty one is its state transfer.
            volume.matched = min(leader.matched, volume.matched + step)
        self._commit(volumes)
        self._try_change(volumes, up)

    def _commit(self, volumes: dict[int, Volume]) -> None:
        voters = self.configuration.voters
        held = sorted((volumes[m].matched if m in volumes else 0 for m in voters), reverse=True)
        self.acknowledged = max(self.acknowledged, held[majority(len(voters)) - 1])

    def _try_change(self, volumes: dict[int, Volume], up: frozenset[int]) -> bool:
        """A change of one member is an entry that the voters before it have to hold. Then the new
        ones count, whether they are a quorum or not."""
        if self.pending is None:
            return False
        index, voters = volumes[self.leader].matched + 1, self.configuration.voters
        have = [m for m in self.configuration.members & up if volumes[m].matched == index - 1]
        if sum(m in voters for m in have) < majority(len(voters)):
            return False
        for member in have:
            volumes[member].matched = index
        self.history.append((index, self.pending))
        self.pending, self.acknowledged = None, index
        return True

    # --- commands, as the replica enforces them ---

    def change(self, wanted: Configuration, volumes: dict[int, Volume], up: frozenset[int]) -> None:
        """Raises Refused."""
        if self.pending is not None:
            raise Refused("another change is in progress")
        self.pending = wanted
        if not self._try_change(volumes, up):
            raise Refused("the change was not applied in time, but may be later")

    def promote(self, member: int, volumes: dict[int, Volume], up: frozenset[int]) -> None:
        now = self.configuration
        if member in now.voters:
            return
        if member not in now.learners:
            raise Refused("it is no learner")
        if not self.active(member):
            raise Refused("the learner sent nothing")
        matched = volumes[member].matched if member in volumes else 0
        if not matched or volumes[self.leader].matched - matched > LAG_MAX:
            raise Refused("the learner is too far behind")
        self.change(Configuration(now.voters | {member}, now.learners - {member}), volumes, up)

    def remove(self, member: int, volumes: dict[int, Volume], up: frozenset[int]) -> None:
        now = self.configuration
        if member not in now.members:
            return
        if member == self.leader:
            raise Refused("the leader does not remove itself")
        rest = now.voters - {member}
        if member in now.voters and sum(map(self.active, rest)) < majority(len(rest)):
            raise Refused("the rest has no quorum")
        self.change(Configuration(rest, now.learners - {member}), volumes, up)

    def transfer(self, member: int, volumes: dict[int, Volume], up: frozenset[int]) -> None:
        if member not in self.configuration.voters:
            raise Refused("it is no voter")
        if member not in up or volumes[member].matched < volumes[self.leader].matched - LAG_MAX:
            raise Refused("it did not become the leader in time")
        volumes[member].matched = volumes[self.leader].matched
        self.leader, self.serving, self.pending = member, False, None
        self.term += 1
        self.heard = dict.fromkeys(up, self.tick)

"""What is true of the world at a moment, whoever sees it: what an action is judged by."""

from dataclasses import dataclass

from tests.support.partition_world.kubernetes import STATEFUL_SET
from tests.support.partition_world.replicas import LAG_MAX, majority
from tests.support.partition_world.world import World


@dataclass(frozen=True)
class Truth:
    """voters, members: of the configuration. leader: 0 for none. up: the members that run. active:
    those that do, or did a moment ago. caught_up: the active ones that hold what was acknowledged,
    but for a lag that a promotion allows. sound: those of them whose volumes are not to be deleted.
    member_at: by ordinal. leaving: ordinals of the claims that are being deleted. size: of the
    StatefulSet. backfills: a standalone log is being made a replicated one."""

    voters: frozenset[int]
    members: frozenset[int]
    leader: int
    up: frozenset[int]
    active: frozenset[int]
    caught_up: frozenset[int]
    sound: frozenset[int]
    member_at: dict[int, int]
    leaving: frozenset[int]
    size: int
    backfills: bool

    @property
    def has_quorum(self) -> bool:
        return bool(self.leader) and self.is_quorum(self.active)

    def is_quorum(self, members: frozenset[int]) -> bool:
        return len(members & self.voters) >= majority(len(self.voters))


def truth_of(world: World) -> Truth:
    group, kube = world.group, world.kube
    at = {o: v.member for o in kube.claims if (v := kube.volume_of(o)) is not None}
    leaving = frozenset(o for o, claim in kube.claims.items() if claim.deleting)
    size = int(kube.objects.get(STATEFUL_SET, {}).get("spec", {}).get("replicas", 0))
    nobody: frozenset[int] = frozenset()
    if group is None:
        return Truth(nobody, nobody, 0, nobody, nobody, nobody, nobody, at, leaving, size, False)
    volumes, configuration = world.volumes, group.configuration
    up = world.up()
    recent = frozenset(m for m in configuration.members if m in up or group.active(m))
    doomed = {at[o] for o in leaving if o in at}
    least = group.acknowledged - LAG_MAX
    caught_up = frozenset(m for m in recent if m in volumes and volumes[m].matched >= least)
    return Truth(
        configuration.voters,
        configuration.members,
        group.leader,
        up & configuration.members,
        recent,
        caught_up,
        caught_up - doomed,
        at,
        leaving,
        size,
        any(v.backfilled is not None or v.switching for v in volumes.values()),
    )

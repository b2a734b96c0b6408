"""Lost volumes: which voters lost theirs, and whether an election is still possible.

A member ID is drawn once per volume. If another ID answers at a voter's address, the voter's volume
was replaced. A replica that does not answer may come back, so its volume does not count as lost,
unless Kubernetes says that it is out of reach for good (`ObservedPartition.lost`).
"""

from dataclasses import dataclass

from partition_operator.api import names
from partition_operator.api.words import MemberRole, Reason
from partition_operator.reconcile.observed.partition import ObservedPartition, ObservedReplica
from partition_operator.resources.pdb import quorum

Voters = dict[int, int]
"""Member IDs by ordinal."""


@dataclass(frozen=True, slots=True)
class Loss:
    """lost: ordinals of the voters whose volumes are lost. voters: how many voters the group has.
    survivors: ordinals of the voters that answer with the group's data."""

    lost: tuple[int, ...]
    voters: int
    survivors: tuple[int, ...]

    @property
    def whole(self) -> bool:
        """Whether no voter is left, not even a silent one."""
        return len(self.lost) == self.voters


def explain(observed: ObservedPartition, *, bootstrapped: bool) -> tuple[Reason, str] | None:
    """Returns why the group can't go on by itself, and what to do; None if it can."""
    if bootstrapped:
        loss = quorum_lost_for_good(observed)
        if loss is None:
            return None
        reason = Reason.VOLUME_LOST if loss.whole else Reason.QUORUM_LOST
        return reason, _describe(observed, loss)
    first = observed.replica(0)
    if "restored" not in observed.partition.status or first is None or first.belongs:
        return None
    name = observed.partition.name
    return Reason.VOLUME_LOST, (
        f"the volume of {names.pod(name, 0)} is new: the volume with the restored snapshot was "
        "replaced before the group existed. Delete this Partition and PersistentVolumeClaim "
        f"{names.claim(name, 0)}, and create the Partition again to restore the snapshot again"
    )


def quorum_lost_for_good(observed: ObservedPartition) -> Loss | None:
    """Returns the loss that makes an election impossible, or None if one is still possible.

    The last status and the survivors may contain different configurations. An election counts as
    impossible only if it is impossible in each of them: after a false alarm a user might delete
    good volumes.
    """
    if observed.leader is not None:
        return None
    losses = [_loss(observed, voters) for voters in _configurations(observed)]
    hopeless = [loss for loss in losses if loss is not None]
    return hopeless[0] if hopeless and len(hopeless) == len(losses) else None


def _describe(observed: ObservedPartition, loss: Loss) -> str:
    partition = observed.partition.name
    claims = ", ".join(names.claim(partition, n) for n in loss.lost)
    pods = ", ".join(names.pod(partition, n) for n in loss.lost)
    if loss.voters == 1:
        what = f"the volume of {pods} is new: it replaced the only copy of the data"
    else:
        what = (
            f"the volumes of {pods} are new or out of reach: {len(loss.lost)} of {loss.voters} "
            "voters are lost, and the remaining voters are not a majority"
        )
    survivors, recover = "", ""
    if loss.survivors:
        kept = ", ".join(names.pod(partition, n) for n in loss.survivors)
        survivors = f"; {kept} still has a copy, which may lack the newest writes: keep it"
        recover = "recover the group from a copy (status.quorumLoss, lost_quorum.md), or "
    return (
        f"{what}{survivors}. No leader can be elected. If the old PersistentVolumes still exist, "
        f"bind them to {claims} again; otherwise {recover}restore a snapshot into a new Partition "
        "(docs/operations/volumes.md, Most volumes are lost)"
    )


def _configurations(observed: ObservedPartition) -> list[Voters]:
    """Returns the voters per source: the last status, and each replica that belongs to a group."""
    recorded: Voters = {}
    for member in observed.partition.status.get("members", []):
        ordinal = member.get("pod", "").removeprefix(f"{observed.partition.name}-")
        if member.get("role") == MemberRole.VOTER and ordinal.isdigit():
            recorded[int(ordinal)] = int(member["memberID"], 16)
    found = [recorded] if recorded else []
    for replica in observed.replicas:
        voters = {observed.ordinal_of(m.address): m.member_id for m in replica.members if m.voter}
        if voters:
            found.append(voters)
    if not found and (first := _bootstrapped_alone(observed)):
        found.append(first)
    return found


def _bootstrapped_alone(observed: ObservedPartition) -> Voters:
    """Returns replica 0 as the only voter, if the group was bootstrapped and status does not record
    its members yet."""
    first = observed.replica(0)
    if first is None or first.belongs or any(r.belongs for r in observed.replicas):
        return {}
    return {0: 0}


def _loss(observed: ObservedPartition, voters: Voters) -> Loss | None:
    lost: list[int] = []
    survivors: list[int] = []
    for ordinal, member_id in sorted(voters.items()):
        replica = observed.replica(ordinal)
        if replica is None:
            if ordinal in observed.lost:
                lost.append(ordinal)
            continue
        (survivors if _is(replica, member_id) else lost).append(ordinal)
    if len(voters) - len(lost) >= quorum(len(voters)):
        return None
    return Loss(tuple(lost), len(voters), tuple(survivors))


def _is(replica: ObservedReplica, member_id: int) -> bool:
    return replica.belongs and replica.member_id == member_id

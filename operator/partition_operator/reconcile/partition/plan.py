"""The order of concerns: what may be done only after what."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from partition_operator.api import schema
from partition_operator.api.events import Event
from partition_operator.api.partition import STANDALONE, PartitionSpec
from partition_operator.api.words import MemberRole
from partition_operator.errors import InvalidSpec
from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.reconcile.partition import (
    conditions,
    membership,
    news,
    objects,
    replication,
    restore,
    storage,
    volumes,
    writes,
)
from partition_operator.reconcile.partition.actions import (
    Action,
    AnnotateClaim,
    Bootstrap,
    RecordBootstrapped,
    RecordCluster,
)
from partition_operator.reconcile.partition.restore import Restoring
from partition_operator.reconcile.partition.status import Standing, fold, refused
from partition_operator.reconcile.partition.writes import PendingWrites


@dataclass(frozen=True, slots=True)
class Plan:
    """action: the one step to take now, None where there is nothing to do. status: what to write.
    settled: nothing is under way, so looking less often is enough. hurried: what is under way may
    take less than a second. waiting: it goes on when somebody does something. retry_s: when a write
    that was refused or undone is due again, None if there is none."""

    action: Action | None
    status: schema.PartitionStatus
    events: list[Event] = field(default_factory=list)
    settled: bool = False
    hurried: bool = False
    waiting: bool = False
    retry_s: float | None = None


@dataclass(frozen=True, slots=True)
class _PlanStep:
    """action: what to do. pending: what differs from what is wanted, done or not. conflict: what
    keeps the spec from being followed while the rest goes on, "" for nothing. leaving: objects that
    have to be gone before anything else is done, "" for none. mending: volumes are made anew."""

    action: Action | None
    pending: PendingWrites = field(default_factory=PendingWrites)
    conflict: str = ""
    leaving: str = ""
    mending: bool = False


def plan(  # noqa: PLR0911  # the order of concerns: one return for each
    observed: ObservedPartition,
    image: str,
    draw: Callable[[], str] = lambda: str(uuid.uuid4()),
    backfill_stalled_s: float = replication.STALLED_S,
) -> Plan:
    """One safe step. `image`: the replicas'. `draw`: a new cluster ID. backfill_stalled_s: without
    progress for so long a backfill is reported."""
    partition = observed.partition
    status = partition.status
    cluster_id, bootstrapped = status.get("clusterID", ""), bool(status.get("bootstrapped"))
    try:
        asked = partition.spec()
    except InvalidSpec as error:
        return _refused(observed, "InvalidSpec", str(error))

    conflict = _conflict(observed)
    if conflict and not bootstrapped:
        return _refused(observed, "Conflict", conflict)
    # Every status below shows it, unless the spec is refused. Its action has its turn further down.
    restoring = restore.step(observed, cluster_id, image) if cluster_id else None
    if leaving := objects.leaving(observed):
        # An object may stay for ever, and the certificates would end meanwhile.
        due, pending = objects.renewals(observed) if bootstrapped else ([], PendingWrites())
        action = writes.first_free(observed, due)
        step = _PlanStep(action, pending, conflict=conflict, leaving=leaving)
        return _plan(observed, step, cluster_id, bootstrapped, backfill_stalled_s, restoring)
    if not cluster_id:
        return _without_cluster(observed, image, draw)

    foreign = [r for r in observed.replicas if r.belongs and r.cluster_id != cluster_id]
    if foreign and (found := volumes.mistaken(observed, cluster_id)):
        return _plan(observed, _PlanStep(RecordCluster(found)), cluster_id, bootstrapped=False)
    if foreign:
        return _refused(
            observed,
            "VolumesFound",
            f"the volume of {partition.name}-{foreign[0].ordinal} belongs to cluster "
            f"{foreign[0].cluster_id}, this Partition is cluster {cluster_id}: delete that "
            "PersistentVolumeClaim and pod to begin that replica anew",
        )
    if why := replication.refusal(observed, asked):
        return _refused(observed, "InvalidSpec", why)
    if mending := storage.mend(observed, asked):
        step = _PlanStep(mending.action, conflict=conflict, mending=True)
        return _plan(observed, step, cluster_id, bootstrapped, backfill_stalled_s, restoring)
    if restoring is not None and (not restoring.done or restoring.action is not None):
        step = _PlanStep(restoring.action)
    else:
        step = _next(observed, image, cluster_id, bootstrapped)
    step = replace(step, conflict=conflict)
    return _plan(observed, step, cluster_id, bootstrapped, backfill_stalled_s, restoring)


def _conflict(observed: ObservedPartition) -> str:
    """What to say of objects of somebody else that have names of ours; "" for none."""
    way = objects.in_the_way(observed)
    return way and (
        f"objects of this Partition's names are somebody else's ({way}): rename the Partition, "
        "or remove them"
    )


def _without_cluster(observed: ObservedPartition, image: str, draw: Callable[[], str]) -> Plan:
    """Chooses the group's identity: drawn for new volumes, taken over from found ones."""
    partition = observed.partition
    spec = replication.effective(observed, partition.spec())
    finding = volumes.inspect(observed)
    if len(finding.clusters) > 1:
        ids = ", ".join(sorted(finding.clusters))
        return _refused(
            observed,
            "VolumesFound",
            f"volumes of several clusters ({ids}) carry this Partition's names: keep those of one, "
            "delete the other PersistentVolumeClaims",
        )
    if not finding.clean and not spec.adopt:
        restores = partition.spec().restore is not None
        why = volumes.refusal(finding, partition.name, restores=restores)
        return _refused(observed, "VolumesFound", why)
    if finding.suspicious:
        # Nobody wrote on the claims whose they are: the volumes say it when their pods run.
        count = max(spec.replicas, max(finding.suspicious) + 1)
        found, pending = objects.differences(observed, spec, count, 0, image)
        step = _PlanStep(writes.first_free(observed, found), pending)
        return _plan(observed, step, "", bootstrapped=False)
    if why := replication.misplaced(observed):
        return _refused(observed, "VolumesFound", why)
    chosen = next(iter(finding.clusters), "") or draw()
    return _plan(observed, _PlanStep(RecordCluster(chosen)), "", bootstrapped=False)


def _may_bootstrap(observed: ObservedPartition, cluster_id: str) -> bool:
    """Replica 0's volume is new and marked as ours, nothing says that a group ever existed, and
    every volume that is older than the Partition has said that it is empty."""
    first = observed.replica(0)
    if first is None or first.belongs or observed.partition.status.get("members"):
        return False
    if observed.partition.spec().restore is not None:
        # An empty volume in place of the one that was restored: nothing of it is begun empty.
        return False
    created = observed.partition.body["metadata"].get("creationTimestamp", "")
    for claim in observed.claims:
        replica = observed.replica(claim.ordinal)
        if claim.created < created and (replica is None or replica.belongs):
            return False
    return any(c.ordinal == 0 and c.cluster_id == cluster_id for c in observed.claims)


def _next(
    observed: ObservedPartition, image: str, cluster_id: str, bootstrapped: bool
) -> _PlanStep:
    """What is refused waits for its next try; the steps after it go on where they don't need it."""
    asked = observed.partition.spec()
    spec = replication.effective(observed, asked)
    pods = membership.pods_wanted(observed, spec.replicas)
    pods = replication.pods_wanted(observed, asked, pods)
    leader = observed.leader
    voters = sum(m.voter for m in leader.members) if leader else _last_voters(observed)
    found, pending = objects.differences(observed, spec, pods, voters, image)
    free = writes.first_free(observed, found)
    if free is not None:
        return _PlanStep(free, pending)
    # Before its volume is touched: from then on it is nobody else's.
    unknown = objects.unknown_claims(observed)
    unmarked = [c.ordinal for c in observed.claims if not c.cluster_id and c not in unknown]
    if not bootstrapped:
        unmarked += volumes.mismarked(observed, cluster_id)
    marks = [AnnotateClaim(ordinal, cluster_id) for ordinal in unmarked]
    for mark in marks:
        pending = pending.also(mark, observed.partition.name)
    free = writes.first_free(observed, marks)
    if free is not None:
        return _PlanStep(free, pending)
    if bootstrapped:
        untouched = frozenset([*unmarked, *(claim.ordinal for claim in unknown)])
        return _PlanStep(_change(observed, asked, spec.replicas, cluster_id, untouched), pending)
    if marks:
        return _PlanStep(None, pending)
    if any(r.belongs and r.members for r in observed.replicas):
        return _PlanStep(RecordBootstrapped(cluster_id), pending)
    # A replica that is "joining" was told to wait: it never forms a group.
    may = _may_bootstrap(observed, cluster_id)
    bootstrap = Bootstrap(0, cluster_id, asked.mode == STANDALONE)
    return _PlanStep(bootstrap if may else None, pending)


def _change(
    observed: ObservedPartition,
    asked: PartitionSpec,
    wanted: int,
    cluster_id: str,
    untouched: frozenset[int],
) -> Action | None:
    """The next change of a group that exists. untouched: ordinals of volumes that do not carry its
    mark, so nothing may be written on them."""
    if replication.standalone(observed, asked):
        return replication.next_step(observed, asked)
    seen = tuple(r for r in observed.replicas if r.belongs or r.ordinal not in untouched)
    return membership.next_change(replace(observed, replicas=seen), cluster_id, wanted)


def _last_voters(observed: ObservedPartition) -> int:
    return sum(m["role"] == MemberRole.VOTER for m in observed.partition.status.get("members", []))


def _plan(
    observed: ObservedPartition,
    step: _PlanStep,
    cluster_id: str,
    bootstrapped: bool,
    backfill_stalled_s: float = replication.STALLED_S,
    restoring: Restoring | None = None,
) -> Plan:
    partition = observed.partition
    pending = step.pending.also(step.action, partition.name)
    held = step.action is not None and writes.is_held(observed, step.action)
    action = None if held else step.action
    seen = replication.look(observed, partition.spec(), backfill_stalled_s)
    status = fold(
        observed,
        Standing(cluster_id, bootstrapped, seen, restoring, pending, step.conflict, step.leaving),
    )
    retry_s = writes.retry_s(observed, pending)
    # What has to go first goes by itself, even if the restore has failed or waits for somebody.
    resting = None if step.leaving or step.mending else restoring
    final = resting is not None and resting.final
    settled = action is None and retry_s is None and (final or status["state"] == "Ready")
    settled = settled and not step.leaving
    waiting = (resting is not None and resting.waiting) or bool(step.conflict or step.leaving)
    if retry_s is not None:
        # Nothing else goes on, so nothing is seen earlier by looking more often.
        complete = any(
            c["type"] == "Progressing" and c["status"] == "False" for c in status["conditions"]
        )
        waiting |= complete or ("StatefulSet", partition.name) not in observed.objects
    hurried = seen.mode == replication.BACKFILLING and not seen.stalled
    told = news.events(partition.status, status)
    return Plan(action, status, told, settled, hurried, waiting, retry_s)


def _refused(observed: ObservedPartition, reason: str, message: str) -> Plan:
    """Nothing is changed. A group that exists goes on as it was, so its certificates are renewed
    all the same: they would end."""
    old = observed.partition.status
    bootstrapped = bool(old.get("bootstrapped"))
    told = conditions.refused(reason, message)
    found: list[Action] = []
    pending = PendingWrites()
    if bootstrapped:
        found, pending = objects.renewals(observed)
        # What was refused of other objects stays said: a valid spec asks for them again.
        written = PendingWrites(tuple(dict.fromkeys([*pending.keys, *observed.writes])))
        told += [conditions.certificates(observed), writes.applied(observed, written)]
    status = refused(observed, told)
    action, retry_s = writes.first_free(observed, found), writes.retry_s(observed, pending)
    settled = action is None and retry_s is None
    return Plan(
        action, status, news.events(old, status), settled, waiting=not settled, retry_s=retry_s
    )

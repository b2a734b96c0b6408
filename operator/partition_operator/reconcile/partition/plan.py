"""Chooses the next step of a Partition. The order of the checks keeps each step safe."""

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
    attributes,
    conditions,
    cordons,
    deletion,
    fence,
    hibernation,
    membership,
    news,
    objects,
    rebuild,
    recovery,
    replication,
    restore,
    rollout,
    storage,
    switchover,
    volumes,
    writes,
)
from partition_operator.reconcile.partition.actions import (
    Action,
    AnnotateClaim,
    Bootstrap,
    EnableReplication,
    GiveUpVolume,
    RecordBootstrapped,
    RecordCluster,
)
from partition_operator.reconcile.partition.recovery import Recovering
from partition_operator.reconcile.partition.restore import Restoring
from partition_operator.reconcile.partition.status import Standing, fold, refused
from partition_operator.reconcile.partition.writes import PendingWrites


@dataclass(frozen=True, slots=True)
class Plan:
    """The result of one turn.

    action: the step to take now; None if there is nothing to do. status: the status to write.
    settled: no work is in progress, so the next turn may come later. hurried: the work in progress
    may take less than a second. waiting: the Partition waits for a user or another program.
    retry_s: seconds until a refused or undone write is due again; None if there is none.
    """

    action: Action | None
    status: schema.PartitionStatus
    events: list[Event] = field(default_factory=list)
    settled: bool = False
    hurried: bool = False
    waiting: bool = False
    retry_s: float | None = None


@dataclass(frozen=True, slots=True)
class _PlanStep:
    """action: the step to take. pending: objects that differ from the wanted ones, whether this
    step writes them or not. conflict: why the operator can't follow the whole spec, "" if it can;
    other steps continue. leaving: objects whose deletion must finish first, "" for none. mending:
    volumes are being recreated. paused: a user stopped the operator. event: why it is taken."""

    action: Action | None
    pending: PendingWrites = field(default_factory=PendingWrites)
    conflict: str = ""
    leaving: str = ""
    mending: bool = False
    paused: bool = False
    event: Event | None = None


@dataclass(frozen=True, slots=True)
class _Settings:
    """image: of this Partition's replicas. operator_image: of new Partitions' replicas. draw:
    returns a new cluster ID."""

    image: str
    operator_image: str
    backfill_stalled_s: float
    draw: Callable[[], str]


def plan(  # noqa: PLR0911  # the order of concerns: one return for each
    observed: ObservedPartition,
    image: str,
    draw: Callable[[], str] = lambda: str(uuid.uuid4()),
    backfill_stalled_s: float = replication.STALLED_S,
    *,
    image_auto_update: bool = False,
) -> Plan:
    """Returns the next safe step. image: the operator's image, which new replicas get; with
    image_auto_update all replicas without spec.image. draw: returns a new cluster ID.
    backfill_stalled_s: after this time without progress a backfill is reported as stalled."""
    observed = recovery.set_apart(observed)
    partition = observed.partition
    status = partition.status
    cluster_id, bootstrapped = status.get("clusterID", ""), bool(status.get("bootstrapped"))
    try:
        asked = partition.spec()
    except InvalidSpec as error:
        return _refused(observed, "InvalidSpec", str(error))

    chosen = rollout.image(observed, asked, image, auto=image_auto_update)
    settings = _Settings(chosen, image, backfill_stalled_s, draw)
    conflict = _conflict(observed)
    if conflict and not bootstrapped:
        return _refused(observed, "Conflict", conflict)
    # Every status below contains it, unless the spec is refused. Its action is chosen further down.
    restoring = restore.step(observed, cluster_id, chosen) if cluster_id else None
    if first := _first(observed, conflict, bootstrapped=bootstrapped):
        return _plan(observed, first, cluster_id, bootstrapped, settings, restoring)
    if not cluster_id:
        return _without_cluster(observed, settings)

    foreign = [r for r in observed.replicas if r.belongs and r.cluster_id != cluster_id]
    if foreign and (found := volumes.mistaken(observed, cluster_id)):
        return _plan(observed, _PlanStep(RecordCluster(found)), cluster_id, False, settings)
    if foreign:
        return _refused(
            observed,
            "VolumesFound",
            f"the volume of {partition.name}-{foreign[0].ordinal} belongs to cluster "
            f"{foreign[0].cluster_id}, but this Partition is cluster {cluster_id}: delete that "
            "PersistentVolumeClaim and that pod to start the replica with an empty volume",
        )
    if why := replication.refusal(observed, asked):
        return _refused(observed, "InvalidSpec", why)
    if mending := storage.mend(observed, asked):
        step = _PlanStep(mending.action, conflict=conflict, mending=True)
        return _plan(observed, step, cluster_id, bootstrapped, settings, restoring)
    if restoring is not None and (not restoring.done or restoring.action is not None):
        step = _PlanStep(restoring.action)
    else:
        step = _next(observed, settings, cluster_id, bootstrapped)
    step = replace(step, conflict=conflict)
    return _plan(observed, step, cluster_id, bootstrapped, settings, restoring)


def _first(observed: ObservedPartition, conflict: str, *, bootstrapped: bool) -> _PlanStep | None:
    """Returns the step that goes before all others; None if there is none."""
    paused, leaving = observed.partition.spec().paused, objects.leaving(observed)
    guards = deletion.safeguards(observed)
    if (guard := writes.first_free(observed, guards)) is not None:
        # Nothing may delay what keeps the data of a Partition that is deleted.
        return _PlanStep(guard, conflict=conflict, leaving=leaving, paused=paused)
    fencing = fence.look(observed).action
    if fencing is not None:
        # Also while the Partition is paused: a user asks for it by the pod's name.
        # Also before the group is recorded: a fence that outlasted a former Partition ends.
        return _PlanStep(fencing, conflict=conflict, leaving=leaving, paused=paused)
    if leaving or paused:
        # Both may last without end, so the certificates must be renewed.
        due, pending = objects.renewals(observed) if bootstrapped else ([], PendingWrites())
        for guard in guards:
            pending = pending.also(guard, observed.partition.name)
        action = writes.first_free(observed, due)
        return _PlanStep(action, pending, conflict, leaving, paused=paused)
    return None


def _conflict(observed: ObservedPartition) -> str:
    """Returns the message about objects of others that have names of this Partition's objects; ""
    if there are none."""
    way = objects.in_the_way(observed)
    return way and (
        f"objects with names that this Partition needs belong to another owner ({way}): rename "
        "the Partition, or delete these objects"
    )


def _without_cluster(observed: ObservedPartition, settings: _Settings) -> Plan:
    """Chooses the cluster ID: a new one for new volumes, or the one of existing volumes."""
    partition = observed.partition
    spec = replication.effective(observed, partition.spec())
    finding = volumes.inspect(observed)
    if len(finding.clusters) > 1:
        ids = ", ".join(sorted(finding.clusters))
        return _refused(
            observed,
            "VolumesFound",
            f"volumes of several clusters ({ids}) have names of this Partition: keep the volumes "
            "of one cluster and delete the other PersistentVolumeClaims",
        )
    if not finding.clean and not spec.adopt:
        restores = partition.spec().restore is not None
        why = volumes.refusal(finding, partition.name, restores=restores)
        return _refused(observed, "VolumesFound", why)
    if finding.suspicious:
        # These claims have no cluster-ID annotation. Their replicas report the cluster ID of the
        # volumes when their pods run.
        count = max(spec.replicas, max(finding.suspicious) + 1)
        found, pending = objects.differences(observed, spec, count, 0, settings.image)
        step = _PlanStep(writes.first_free(observed, found), pending)
        return _plan(observed, step, "", False, settings)
    if why := replication.misplaced(observed):
        return _refused(observed, "VolumesFound", why)
    chosen = next(iter(finding.clusters), "") or settings.draw()
    return _plan(observed, _PlanStep(RecordCluster(chosen)), "", False, settings)


def _may_bootstrap(observed: ObservedPartition, cluster_id: str) -> bool:
    """Whether a new group may begin on replica 0: its volume is new and annotated with the cluster
    ID, status records no members, and each volume that is older than the Partition is reported as
    empty by its replica."""
    first = observed.replica(0)
    if first is None or first.belongs or observed.partition.status.get("members"):
        return False
    if observed.partition.spec().restore is not None:
        # An empty volume replaced the restored one. A group on it would lack the restored data.
        return False
    created = observed.partition.body["metadata"].get("creationTimestamp", "")
    for claim in observed.claims:
        replica = observed.replica(claim.ordinal)
        if claim.created < created and (replica is None or replica.belongs):
            return False
    return any(c.ordinal == 0 and c.cluster_id == cluster_id for c in observed.claims)


def _next(
    observed: ObservedPartition, settings: _Settings, cluster_id: str, bootstrapped: bool
) -> _PlanStep:
    """Returns the next step of a Partition with a cluster ID. A refused write waits for its next
    try; later steps that do not depend on it continue."""
    asked = observed.partition.spec()
    spec = replication.effective(observed, asked)
    asleep = hibernation.look(observed, asked, bootstrapped=bootstrapped).asleep
    pods = membership.pods_wanted(observed, spec.replicas)
    pods = 0 if asleep else replication.pods_wanted(observed, asked, pods)
    leader = observed.leader
    voters = sum(m.voter for m in leader.members) if leader else _last_voters(observed)
    found, pending = objects.differences(observed, spec, pods, voters, settings.image)
    free = writes.first_free(observed, found)
    if free is not None:
        return _PlanStep(free, pending)
    unmarked = _unmarked(observed, cluster_id, bootstrapped=bootstrapped)
    marks = [AnnotateClaim(ordinal, cluster_id) for ordinal in unmarked]
    of_claims: list[Action] = [*marks, *storage.grow(observed, spec)]
    of_claims += attributes.modify(observed, spec)
    of_claims += deletion.preparations(observed, asked)
    for one in of_claims:
        pending = pending.also(one, observed.partition.name)
    free = writes.first_free(observed, of_claims)
    if free is not None or asleep:
        return _PlanStep(free, pending)
    if bootstrapped:
        if first := recovery.look(observed, settings.draw).action:
            return _PlanStep(first, pending)
        return _live(observed, spec, cluster_id, unmarked, pending)
    return _begin(observed, spec, cluster_id, pending, marked=not marks)


def _unmarked(observed: ObservedPartition, cluster_id: str, *, bootstrapped: bool) -> list[int]:
    """Returns the ordinals of claims to annotate. A claim is annotated before its volume is used,
    so no other group takes the volume over."""
    unknown = objects.unknown_claims(observed)
    unmarked = [c.ordinal for c in observed.claims if not c.cluster_id and c not in unknown]
    if not bootstrapped:
        return unmarked + volumes.mismarked(observed, cluster_id)
    return unmarked + recovery.mismarked(observed)


def _live(
    observed: ObservedPartition,
    spec: PartitionSpec,
    cluster_id: str,
    unmarked: list[int],
    pending: PendingWrites,
) -> _PlanStep:
    """Returns the next step of a group that exists and whose objects are written."""
    asked = observed.partition.spec()
    unknown = [claim.ordinal for claim in objects.unknown_claims(observed)]
    untouched = frozenset([*unmarked, *unknown])
    change = _change(observed, asked, spec.replicas, cluster_id, untouched)
    rolling = _rollout_action(observed, spec, pending)
    if isinstance(change, EnableReplication) and observed.refused:
        change = rolling or change  # another template may be what helps
    rebuilding = rebuild.look(observed, spec)
    change = change or switchover.look(observed).action
    if change is None and rebuilding.action is not None:
        return _PlanStep(rebuilding.action, pending, event=rebuilding.event)
    leaving = cordons.look(observed)
    if change is None and leaving is not None:
        return _PlanStep(leaving.action, pending, event=leaving.event)
    return _PlanStep(change or rolling, pending)


def _begin(
    observed: ObservedPartition,
    spec: PartitionSpec,
    cluster_id: str,
    pending: PendingWrites,
    *,
    marked: bool,
) -> _PlanStep:
    """Returns the next step towards a group. marked: every claim has its cluster ID."""
    if not marked:
        return _PlanStep(None, pending)
    if any(r.belongs and r.members for r in observed.replicas):
        return _PlanStep(RecordBootstrapped(cluster_id), pending)
    # A replica with role "joining" waits to be added: it never forms a group.
    bootstrap = Bootstrap(0, cluster_id, observed.partition.spec().mode == STANDALONE)
    may = _may_bootstrap(observed, cluster_id)
    return _PlanStep(bootstrap if may else _rollout_action(observed, spec, pending), pending)


def _rollout_action(
    observed: ObservedPartition, spec: PartitionSpec, pending: PendingWrites
) -> Action | None:
    """Nothing while the StatefulSet has to be written: it may have somebody else's template."""
    if ("StatefulSet", observed.partition.name) in pending.keys:
        return None
    return rollout.look(observed, spec).action


def _change(
    observed: ObservedPartition,
    asked: PartitionSpec,
    wanted: int,
    cluster_id: str,
    untouched: frozenset[int],
) -> Action | None:
    """Returns the next change of an existing group. untouched: ordinals whose claims lack the
    cluster-ID annotation, so nothing may be written to their volumes."""
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
    settings: _Settings,
    restoring: Restoring | None = None,
) -> Plan:
    partition = observed.partition
    pending = step.pending.also(step.action, partition.name)
    held = step.action is not None and writes.is_held(observed, step.action)
    action = None if held else step.action
    seen = replication.look(observed, partition.spec(), settings.backfill_stalled_s)
    differs, kept = objects.compare_template(observed, seen.spec, settings.image)
    waits = step.paused or ("StatefulSet", partition.name) in pending.keys
    rolling = rollout.look(
        observed, seen.spec, settings.operator_image, unwritten=differs and waits
    )
    switching = switchover.look(observed)
    rebuilding = rebuild.look(observed, seen.spec) if bootstrapped else rebuild.Rebuild()
    if isinstance(rebuilding.action, GiveUpVolume) and rebuilding.action != action:
        # The record says that a claim is given up, so it is written only together with that.
        rebuilding = replace(rebuilding, record=partition.status.get("rebuild"))
    sleep = hibernation.look(observed, partition.spec(), bootstrapped=bootstrapped)
    recovering = recovery.look(observed) if bootstrapped else Recovering()
    status = fold(
        observed,
        Standing(
            cluster_id,
            bootstrapped,
            seen,
            rolling,
            rollout.kept_image(observed, rolling, settings.image),
            kept,
            switching.followed,
            sleep,
            rebuilding,
            restoring,
            recovering,
            pending,
            step.conflict,
            step.leaving,
        ),
    )
    retry_s = fence.sooner(writes.retry_s(observed, pending), fence.look(observed).retry_s)
    # A deletion in progress continues by itself, even if the restore has failed or waits.
    resting = None if step.leaving or step.mending else restoring
    final = resting is not None and resting.final
    settled = (
        action is None and retry_s is None and (final or sleep.over or status["state"] == "Ready")
    )
    settled = settled and not step.leaving
    waiting = (resting is not None and resting.waiting) or bool(step.conflict or step.leaving)
    waiting |= step.paused or (action is None and recovering.loss is not None)
    if retry_s is not None:
        # No other work is in progress, so more frequent turns would observe nothing new.
        complete = any(
            c["type"] == "Progressing" and c["status"] == "False" for c in status["conditions"]
        )
        waiting |= complete or ("StatefulSet", partition.name) not in observed.objects
    hurried = seen.mode == replication.BACKFILLING and not seen.stalled
    told = news.events(partition.status, status)
    refusal = rebuilding.event if rebuilding.action is None else None
    why = step.event if action is not None else None
    told += [event for event in (switching.event, why, refusal) if event is not None]
    if remembered := objects.kept_while_made_anew(observed, action):
        status["keptPodSpec"] = remembered
    return Plan(action, status, told, settled, hurried, waiting, retry_s)


def _refused(observed: ObservedPartition, reason: str, message: str) -> Plan:
    """Returns a plan that changes nothing but certificates and what protects the data from a
    deletion. An existing group continues to run, so its certificates must still be renewed."""
    old = observed.partition.status
    bootstrapped = bool(old.get("bootstrapped"))
    told = conditions.refused(reason, message)
    found: list[Action] = []
    pending = PendingWrites()
    if bootstrapped:
        due, pending = objects.renewals(observed)
        found = [*deletion.safeguards(observed), *due]
        for guard in found:
            pending = pending.also(guard, observed.partition.name)
        # Refused writes of other objects stay in status: a valid spec asks for them again.
        written = PendingWrites(tuple(dict.fromkeys([*pending.keys, *observed.writes])))
        told += [conditions.certificates(observed), writes.applied(observed, written)]
    # A fence is asked for by the pod's name, whatever becomes of the spec.
    fencing = fence.look(observed)
    status = refused(observed, [*told, fencing.condition])
    action = fencing.action or writes.first_free(observed, found)
    retry_s = fence.sooner(writes.retry_s(observed, pending), fencing.retry_s)
    settled = action is None and retry_s is None
    return Plan(
        action, status, news.events(old, status), settled, waiting=not settled, retry_s=retry_s
    )

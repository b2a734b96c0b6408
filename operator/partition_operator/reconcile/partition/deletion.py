"""`spec.deletionPolicy`: what becomes of the data when a Partition is deleted. Pure.

Delete makes the Partition an owner of its claims, and Kubernetes does the rest. SnapshotThenDelete
puts a finalizer on the Partition: its claims go only after a last snapshot that has everything.
They have no owner, because a deletion in the foreground would take them before the Partition. Until
the claims go, the plan of every Partition keeps the group running, because the snapshot needs it.
"""

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from partition_operator.api import names, schema
from partition_operator.api.destination import ObjectStore
from partition_operator.api.events import Event
from partition_operator.api.partition import (
    DELETE,
    RETAIN,
    SNAPSHOT_THEN_DELETE,
    Partition,
    PartitionSpec,
    parse,
)
from partition_operator.api.snapshot import GOOD, Snapshot, SnapshotState
from partition_operator.api.times import parse_stamp
from partition_operator.reconcile.observed.partition import ObservedClaim, ObservedPartition
from partition_operator.reconcile.partition import news, writes
from partition_operator.reconcile.partition.actions import (
    Action,
    CreateSnapshot,
    GiveUpVolume,
    OwnClaim,
    SetFinalizer,
)
from partition_operator.reconcile.partition.conditions import Condition, written

LAST_SNAPSHOTS_MAX: Final = 5
"""Most last snapshots in a row. Each one after the first has what clients have written since."""
CLOCKS: Final = dt.timedelta(minutes=1)
"""How much the clocks of two API servers may differ."""

DELETING: Final = "Deleting"
DELETING_VOLUMES: Final = "DeletingVolumes"
"""A reason of Ready. The state is still Deleting."""
BLOCKED: Final = "DeletionBlocked"

AGAIN: Final = "delete that PartitionSnapshot to take it again"
WAY_OUT: Final = (
    "to delete the Partition without it, set spec.deletionPolicy to Retain, which keeps the "
    "claims, or to Delete"
)


@dataclass(frozen=True, slots=True)
class Departure:
    """The next step of a Partition that is being deleted. condition: Ready. event: of the step.
    follows: the group has to be kept running meanwhile."""

    action: Action | None
    condition: Condition
    event: Event | None = None
    follows: bool = False


def preparations(observed: ObservedPartition, spec: PartitionSpec) -> list[Action]:
    """Returns what has to be written before a deletion, so that it does what the policy says."""
    found: list[Action] = []
    wanted = spec.deletion == SNAPSHOT_THEN_DELETE and bool(
        observed.partition.status.get("bootstrapped")
    )
    if wanted != has_finalizer(observed.partition):
        found.append(SetFinalizer(wanted))
    return found + _ownerships(observed, owned=spec.deletion == DELETE)


def safeguards(observed: ObservedPartition) -> list[Action]:
    """Returns those preparations that keep data. They are written also while the operator is
    paused or refuses the spec: a deletion would delete more than the user asks for by then."""
    partition = observed.partition
    policy, found = _policy(partition), list[Action]()
    bootstrapped = bool(partition.status.get("bootstrapped"))
    if policy == SNAPSHOT_THEN_DELETE and bootstrapped and not has_finalizer(partition):
        found.append(SetFinalizer(present=True))
    keeps = policy in (RETAIN, SNAPSHOT_THEN_DELETE)
    return found + _ownerships(observed, owned=False) if keeps else found


def explain(found: list[Condition], observed: ObservedPartition) -> list[Condition]:
    """Returns the conditions. Paused tells if a deletion would not do yet what the policy says."""
    asked = observed.partition.asked
    late = asked is not None and asked.paused and asked.deletion == DELETE
    if not late or not _ownerships(observed, owned=True):
        return found
    told = "; until then a deletion keeps the volumes, although spec.deletionPolicy is Delete"
    return [replace(c, message=c.message + told) if c.type == "Paused" else c for c in found]


def _policy(partition: Partition) -> str:
    """Returns spec.deletionPolicy, also of a spec that is not valid; then it may be any text."""
    asked = partition.asked
    given = partition.body.get("spec") or {}
    return asked.deletion if asked is not None else str(given.get("deletionPolicy") or RETAIN)


def has_finalizer(partition: Partition) -> bool:
    return names.FINALIZER in (partition.body["metadata"].get("finalizers") or [])


def _ownerships(observed: ObservedPartition, *, owned: bool) -> list[Action]:
    wrong = [c for c in _own(observed) if c.owned != owned and not c.deleting]
    return [OwnClaim(claim.ordinal, claim.uid, owned) for claim in wrong]


def _own(observed: ObservedPartition) -> list[ObservedClaim]:
    """Returns the claims of this group."""
    cluster_id = observed.partition.status.get("clusterID")
    return [c for c in observed.claims if cluster_id and c.cluster_id == cluster_id]


# --- a Partition that is being deleted ----------------------------------------------------------


def last_names(partition: Partition) -> list[str]:
    """Returns the names that its last snapshots may have, in order."""
    numbers = range(1, LAST_SNAPSHOTS_MAX + 1)
    return [names.last_snapshot(partition.name, partition.uid, number) for number in numbers]


def awake(observed: ObservedPartition) -> ObservedPartition:
    """Returns the same of a Partition that does not hibernate: a snapshot needs its replicas."""
    partition = observed.partition
    spec = partition.body.get("spec") or {}
    if not spec.get("hibernated"):
        return observed
    body = partition.body | {"spec": {k: v for k, v in spec.items() if k != "hibernated"}}
    return replace(observed, partition=parse(body, partition.cluster_domain))


def depart(observed: ObservedPartition, taken: Iterable[Snapshot]) -> Departure:
    """Returns the next step of a Partition that has the finalizer. taken: the PartitionSnapshots
    that exist with one of `last_names`."""
    partition = observed.partition
    policy = _policy(partition)
    if policy == DELETE and partition.asked is None:
        # Nobody deletes data because of a spec that is not valid.
        policy = SNAPSHOT_THEN_DELETE
    if policy in (RETAIN, DELETE):
        # The user has taken the way out.
        steps = [*_ownerships(observed, owned=policy == DELETE), SetFinalizer(present=False)]
        return _step(observed, steps[0], _told(DELETING, f"spec.deletionPolicy is {policy}"))
    if _begun(observed):
        return _delete(observed, "")
    found = {snapshot.name: snapshot for snapshot in taken}
    possible = last_names(partition)
    newest = next((found[name] for name in reversed(possible) if name in found), None)
    if newest is None:
        return _take(observed, possible[0], f"a last snapshot is taken, {possible[0]}")
    return _judge(observed, newest) or _compare(observed, newest, possible)


def _judge(observed: ObservedPartition, newest: Snapshot) -> Departure | None:
    """Returns why the newest last snapshot is not enough, or not yet; None if it is good."""
    if why := _strange(observed.partition, newest):
        told = f"PartitionSnapshot {newest.name} is not the last snapshot: {why}; {AGAIN}"
        return _waiting(observed, BLOCKED, told)
    if not newest.ended or newest.verifying:
        word = "it is being verified" if newest.verifying else newest.state or "not begun"
        return _waiting(observed, DELETING, f"waiting for the last snapshot, {newest.name}: {word}")
    if why := _bad(newest):
        return _waiting(observed, BLOCKED, f"the last snapshot, {newest.name}, {why}; {AGAIN}")
    return None


def _compare(observed: ObservedPartition, newest: Snapshot, possible: list[str]) -> Departure:
    """Whether the good snapshot has everything that was acknowledged: no claim goes before."""
    leader, lsn = observed.leader, int(newest.status.get("lsn") or 0)
    if leader is None:
        told = f"the last snapshot, {newest.name}, has succeeded; the leader has to tell whether "
        return _waiting(observed, DELETING, f"{told}entries were written since, and none leads")
    if leader.committed <= lsn:
        return _delete(observed, newest.name)
    told = f"entries were written after the last snapshot, {newest.name}, at LSN {lsn}"
    further = possible[possible.index(newest.name) + 1 :]
    if further:
        return _take(observed, further[0], f"{told}: another one is taken, {further[0]}")
    told = f"{told}, and after {LAST_SNAPSHOTS_MAX - 1} before it: stop the clients; {AGAIN}"
    return _waiting(observed, BLOCKED, told)


def _begun(observed: ObservedPartition) -> bool:
    """Whether the claims are being deleted. Then no more is asked: the replicas end."""
    old = observed.partition.status.get("conditions", [])
    said = any(c["type"] == "Ready" and c["reason"] == DELETING_VOLUMES for c in old)
    return said and any(claim.deleting for claim in _own(observed))


def _delete(observed: ObservedPartition, name: str) -> Departure:
    """name: of the last snapshot; "" if it was looked at before."""
    which = f"the last snapshot, {name}," if name else "the last snapshot"
    told = _told(DELETING_VOLUMES, f"{which} has succeeded; the claims are deleted")
    left = [claim for claim in _own(observed) if not claim.deleting]
    if not left:
        return _step(observed, SetFinalizer(present=False), told)
    claim = left[0]
    action = GiveUpVolume(claim.ordinal, claim.uid, claim.volume, keep=False)
    return _step(observed, action, told)


def _take(observed: ObservedPartition, name: str, message: str) -> Departure:
    told = f"{message}; {WAY_OUT}"
    action = CreateSnapshot(_body(observed.partition, name))
    event = Event("Normal", "LastSnapshotStarted", told)
    follows = not _in_foreground(observed.partition)
    return replace(_step(observed, action, _told(DELETING, told), event), follows=follows)


def _step(
    observed: ObservedPartition, action: Action, told: Condition, event: Event | None = None
) -> Departure:
    if words := writes.refusal(observed, action):
        told = _told(BLOCKED, f"the API server refuses {words} (the operator retries); {WAY_OUT}")
    return Departure(action, told, event)


def _waiting(observed: ObservedPartition, reason: str, message: str) -> Departure:
    partition = observed.partition
    asked, foreground = partition.asked, _in_foreground(partition)
    if foreground:
        message += "; the deletion is in the foreground, so Kubernetes ends the pods first"
    elif observed.leader is None and asked is not None and asked.paused:
        message += "; no replica leads, and spec.paused stops the operator: set it to false"
    return Departure(None, _told(reason, f"{message}; {WAY_OUT}"), follows=not foreground)


def _in_foreground(partition: Partition) -> bool:
    """Whether Kubernetes deletes the Partition's objects first, and each that is made anew."""
    return "foregroundDeletion" in (partition.body["metadata"].get("finalizers") or [])


def _strange(partition: Partition, snapshot: Snapshot) -> str:
    """Returns why somebody else's object has the name of the last snapshot; "" if it is ours."""
    if snapshot.partition != partition.name:
        return f"it is of Partition {snapshot.partition}"
    deleted = parse_stamp(partition.body["metadata"].get("deletionTimestamp"))
    if deleted is not None and snapshot.created < deleted - CLOCKS:
        return "it was created before the Partition was deleted"
    spec = snapshot.body.get("spec") or {}
    if spec.get("destination") or spec.get("verify"):
        return "it has a destination or a verification of its own"
    mine = partition.status.get("clusterID", "")
    if snapshot.cluster_id != mine and (snapshot.cluster_id or snapshot.state in GOOD):
        return f"it is of cluster {snapshot.cluster_id or 'unknown'}, and the Partition is {mine}"
    return ""


def _bad(snapshot: Snapshot) -> str:
    """Returns why a snapshot that has ended is not enough to delete the data; "" if it is."""
    if snapshot.state == SnapshotState.REMOVING:
        return "is being removed"
    if snapshot.state not in GOOD:
        return f"is {snapshot.state}: {_message(snapshot, 'Failed', 'True')}"
    if not isinstance(snapshot.stored_in(), ObjectStore):
        return "is on a volume that would be deleted, too"
    if snapshot.state == SnapshotState.SUCCEEDED and "verification" in snapshot.status:
        return f"could not be verified: {_message(snapshot, 'Verified', 'Unknown')}"
    return ""


def _body(partition: Partition, name: str) -> dict[str, Any]:
    """Returns the last snapshot. Its destination and verification are the Partition's."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.SNAPSHOT_KIND,
        "metadata": {
            "name": name,
            "namespace": partition.namespace,
            "labels": names.labels(partition.name, "snapshot"),
            # Retention belongs to a Partition, and this one ends.
            "annotations": {names.ANNOTATION_PINNED: "true"},
        },
        "spec": {"partitionRef": {"name": partition.name}},
    }


def _message(snapshot: Snapshot, kind: str, status: str) -> str:
    conditions = snapshot.status.get("conditions") or []
    told = [c["message"] for c in conditions if c["type"] == kind and c["status"] == status]
    return told[0] if told else "its conditions tell more"


def _told(reason: str, message: str) -> Condition:
    return Condition("Ready", False, reason, message)


def status(
    observed: ObservedPartition, departure: Departure, along: schema.PartitionStatus | None = None
) -> schema.PartitionStatus:
    """Returns the status with the new Ready. along: the status of the plan that keeps the group
    running meanwhile; None if there is none: then everything stays, as the last that was known."""
    old, told = observed.partition.status, departure.condition
    found = old if along is None else along
    before = {c["type"]: c for c in old.get("conditions", [])}
    ready = {c["type"]: c for c in found.get("conditions", [])}.get("Ready")
    serves = along is None or ready is None or ready["status"] == "True"
    if ready is not None and not serves and told.reason == DELETING:
        told = replace(told, message=f"{told.message}; meanwhile: {ready['message']}")
    now, generation = observed.now, observed.partition.generation
    new = written(told, before.get("Ready"), now, generation)
    conditions = [new if c["type"] == "Ready" else c for c in found.get("conditions", [])]
    state = DELETING if told.reason == DELETING_VOLUMES else told.reason
    return {**found, "conditions": conditions, "state": state}


def events(
    observed: ObservedPartition,
    departure: Departure,
    along: tuple[schema.PartitionStatus, list[Event]] | None = None,
) -> list[Event]:
    """Returns what is news: a deletion that is blocked, and what the plan tells that keeps the
    group running. along: the plan's status and events. The step's own event is not among them:
    it is news once the step is taken."""
    found: list[Event] = []
    old = observed.partition.status
    if along is not None:
        # Its own Ready is not what is written, so a change of that is none.
        seen = news.events(old, along[0])
        found += [event for event in along[1] if event not in seen]
        found += news.events(old, status(observed, departure, along[0]))
    told = departure.condition
    before = {c["type"]: c for c in old.get("conditions", [])}
    ready = before.get("Ready")
    if told.reason == BLOCKED and (ready is None or ready["message"] != told.message):
        found.append(Event("Warning", BLOCKED, told.message))
    return found

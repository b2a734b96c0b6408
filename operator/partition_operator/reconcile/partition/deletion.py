"""`spec.deletionPolicy`: what becomes of the data when a Partition is deleted. Pure.

Delete makes the Partition an owner of its claims, and Kubernetes does the rest. SnapshotThenDelete
puts a finalizer on the Partition: its claims go only after a last snapshot has succeeded. They have
no owner, because a deletion in the foreground would take them before the Partition.
"""

from dataclasses import dataclass
from typing import Any, Final

from partition_operator.api import names, schema
from partition_operator.api.events import Event
from partition_operator.api.partition import (
    DELETE,
    SNAPSHOT_THEN_DELETE,
    Partition,
    PartitionSpec,
)
from partition_operator.api.snapshot import GOOD, Snapshot, SnapshotState
from partition_operator.reconcile.observed.partition import ObservedClaim, ObservedPartition
from partition_operator.reconcile.partition.actions import (
    Action,
    CreateSnapshot,
    GiveUpVolume,
    OwnClaim,
    SetFinalizer,
)
from partition_operator.reconcile.partition.conditions import Condition, written

WAY_OUT: Final = (
    "to delete the Partition without it, set spec.deletionPolicy to Retain, which keeps the "
    "claims, or to Delete"
)


@dataclass(frozen=True, slots=True)
class Departure:
    """The next step of a Partition that is being deleted. condition: Ready."""

    action: Action | None
    condition: Condition
    event: Event | None = None


def preparations(observed: ObservedPartition, spec: PartitionSpec) -> list[Action]:
    """Returns what has to be written before a deletion, so that it does what the policy says."""
    found: list[Action] = []
    wanted = spec.deletion == SNAPSHOT_THEN_DELETE and bool(
        observed.partition.status.get("bootstrapped")
    )
    if wanted != has_finalizer(observed.partition):
        found.append(SetFinalizer(wanted))
    return found + _ownerships(observed, owned=spec.deletion == DELETE)


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


def depart(observed: ObservedPartition, snapshot: Snapshot | None) -> Departure:
    """Returns the next step of a Partition that has the finalizer. snapshot: the last one, None if
    it does not exist yet."""
    partition = observed.partition
    asked = partition.asked
    policy = SNAPSHOT_THEN_DELETE if asked is None else asked.deletion
    name = names.last_snapshot(partition.name, partition.uid)
    if policy != SNAPSHOT_THEN_DELETE:
        # The user has taken the way out.
        steps = [*_ownerships(observed, owned=policy == DELETE), SetFinalizer(present=False)]
        return Departure(steps[0], _told("Deleting", f"spec.deletionPolicy is {policy}"))
    if snapshot is None:
        told = f"a last snapshot is taken, {name}; {WAY_OUT}"
        event = Event("Normal", "LastSnapshotStarted", told)
        return Departure(CreateSnapshot(_body(partition, name)), _told("Deleting", told), event)
    if snapshot.state in GOOD:
        left = [claim for claim in _own(observed) if not claim.deleting]
        told = f"the last snapshot, {name}, has succeeded; the claims are deleted"
        if left:
            claim = left[0]
            action = GiveUpVolume(claim.ordinal, claim.uid, claim.volume, keep=False)
            return Departure(action, _told("Deleting", told))
        return Departure(SetFinalizer(present=False), _told("Deleting", told))
    if snapshot.ended:
        why = f"the last snapshot, {name}, is {snapshot.state}: {_message(snapshot)}"
        if snapshot.state == SnapshotState.REMOVING:
            why = f"the last snapshot, {name}, is being removed"
        told = f"{why}; delete that PartitionSnapshot to take it again; {WAY_OUT}"
        return Departure(None, _told("DeletionBlocked", told))
    told = f"waiting for the last snapshot, {name}: {snapshot.state or 'not begun'}; {WAY_OUT}"
    return Departure(None, _told("Deleting", told))


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


def _message(snapshot: Snapshot) -> str:
    conditions = snapshot.status.get("conditions") or []
    told = [c["message"] for c in conditions if c["type"] == "Failed" and c["status"] == "True"]
    return told[0] if told else "its conditions tell more"


def _told(reason: str, message: str) -> Condition:
    return Condition("Ready", False, reason, message)


def status(observed: ObservedPartition, departure: Departure) -> schema.PartitionStatus:
    """Returns the status with the new Ready; everything else stays, as the last that was known."""
    old, told = observed.partition.status, departure.condition
    before = {c["type"]: c for c in old.get("conditions", [])}
    generation = observed.partition.generation
    ready = written(told, before.get("Ready"), observed.now, generation)
    found = [ready if c["type"] == "Ready" else c for c in old.get("conditions", [])]
    return {**old, "conditions": found, "state": told.reason}


def events(observed: ObservedPartition, departure: Departure) -> list[Event]:
    """Returns what is news: the step's event, and that a deletion is blocked."""
    found = [departure.event] if departure.event is not None else []
    told = departure.condition
    before = {c["type"]: c for c in observed.partition.status.get("conditions", [])}
    old = before.get("Ready")
    if told.reason == "DeletionBlocked" and (old is None or old["message"] != told.message):
        found.append(Event("Warning", "DeletionBlocked", told.message))
    return found

"""Standalone Partitions, and their switch to Raft: the number of replicas, the next step, and the
status.

What replica 0 reports about its volume decides. While it does not answer, the last status decides.
"""

import datetime as dt
from dataclasses import dataclass, replace
from typing import Final, Literal, cast

from partition_operator.api import names, schema
from partition_operator.api.partition import RAFT, STANDALONE, PartitionSpec
from partition_operator.api.words import Reason
from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.reconcile.partition.actions import Action, EnableReplication
from partition_operator.reconcile.partition.conditions import Condition

BACKFILLING: Final = "Backfilling"
PresentMode = Literal["None", "Backfilling", "Raft"]
"""The values of status.mode."""
STALLED_S = 300.0
PROGRESS_WRITE_S = 5.0
"""Progress is written into status at most once in this time."""

SERVING = frozenset({Reason.READY, Reason.DEGRADED, Reason.NO_LEADER})
"""Reasons of Ready with which a standalone replica may still serve."""
KEPT_WHILE_SWITCHING = frozenset({"leader", "lag", "quorumCriticalPods"})
"""Fields of status that stay during the switch: a short time without a leader is normal then."""
TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True)
class Replication:
    """mode: the MODE column. spec: the spec to follow now, with one replica while standalone.
    backfill: status.backfill, or None. stalled: the backfill has made no progress for too long.
    switching: the standalone log becomes a Raft log; the short time without a leader is no outage.
    """

    mode: PresentMode
    spec: PartitionSpec
    backfill: schema.Backfill | None
    stalled: bool
    switching: bool


def standalone(observed: ObservedPartition, spec: PartitionSpec) -> bool:
    """Whether the partition's log is standalone."""
    first = observed.replica(0)
    if first is not None and first.belongs:
        return first.standalone
    return spec.mode == STANDALONE or observed.partition.status.get("mode") in (
        STANDALONE,
        BACKFILLING,
    )


def effective(observed: ObservedPartition, spec: PartitionSpec) -> PartitionSpec:
    """Returns the spec to follow now: a standalone Partition has one replica, not spec.replicas."""
    return replace(spec, replicas=1) if standalone(observed, spec) else spec


def pods_wanted(observed: ObservedPartition, spec: PartitionSpec, pods: int) -> int:
    """Returns how many pods must exist. During the switch to Raft, pods that already run stay."""
    if spec.mode == RAFT and standalone(observed, spec):
        live = observed.objects.get(("StatefulSet", observed.partition.name))
        return max(pods, int(((live or {}).get("spec") or {}).get("replicas", 0)))
    return pods


def refusal(observed: ObservedPartition, spec: PartitionSpec) -> str:
    """Returns why the operator can't follow the spec's mode; "" if it can."""
    first = observed.replica(0)
    if spec.mode == RAFT or first is None or not first.belongs or first.standalone:
        return ""
    pod = names.pod(observed.partition.name, 0)
    return (
        f"spec.replication.mode is None, but the volume of {pod} has a replicated log: set the "
        "mode to Raft to use it"
    )


def misplaced(observed: ObservedPartition) -> str:
    """Returns why the volumes with a standalone log can't be adopted; "" if they can."""
    found = [r.ordinal for r in observed.replicas if r.standalone and r.ordinal]
    if not found:
        return ""
    claim = names.claim(observed.partition.name, found[0])
    return (
        f"the volume of PersistentVolumeClaim {claim} has a standalone log, which must be at "
        "ordinal 0: bind the volume to PersistentVolumeClaim "
        f"{names.claim(observed.partition.name, 0)} instead"
    )


def next_step(observed: ObservedPartition, spec: PartitionSpec) -> Action | None:
    """Returns the next step of a standalone partition. The replica completes a backfill by itself,
    so it is asked only if no backfill is in progress."""
    first = observed.replica(0)
    if spec.mode != RAFT or first is None or not first.standalone or not first.serving:
        return None
    return None if first.backfill is not None else EnableReplication(0)


def look(observed: ObservedPartition, spec: PartitionSpec, stalled_s: float) -> Replication:
    mode = _mode(observed, spec)
    backfill = _backfill(observed, mode)
    stalled = (
        mode == BACKFILLING and backfill is not None and _since(observed.now, backfill) >= stalled_s
    )
    first = observed.replica(0)
    switching = (
        mode == BACKFILLING
        and not stalled
        and first is not None
        and first.belongs
        and observed.leader is None
        and _served(observed)
    )
    return Replication(mode, effective(observed, spec), backfill, stalled, switching)


def _mode(observed: ObservedPartition, spec: PartitionSpec) -> PresentMode:
    if standalone(observed, spec):
        return STANDALONE if spec.mode == STANDALONE else BACKFILLING
    # The switch is complete once the new group serves.
    if observed.partition.status.get("mode") == BACKFILLING and observed.leader is None:
        return BACKFILLING
    return RAFT


def _served(observed: ObservedPartition) -> bool:
    old = observed.partition.status.get("conditions", [])
    return any(c["type"] == "QuorumAvailable" and c["status"] == "True" for c in old)


# --- progress ---------------------------------------------------------------------------------


def _backfill(observed: ObservedPartition, mode: PresentMode) -> schema.Backfill | None:
    """Returns status.backfill. It changes when the range is known, at most once per
    PROGRESS_WRITE_S, and at the end."""
    old = observed.partition.status.get("backfill")
    if mode == STANDALONE:
        return None
    if mode == RAFT:
        return old and old | {"doneLSN": old["targetLSN"], "percent": 100}
    seen = _seen(observed, begun=old is not None)
    if seen is None:
        return old
    first, done, target = seen
    new: schema.Backfill = {
        "fromLSN": str(first),
        "doneLSN": str(done),
        "targetLSN": str(target),
        "percent": 100 * (done - first + 1) // (target - first + 1) if target >= first else 100,
        "progressTime": observed.now.strftime(TIME),
    }
    if old is None or (old["fromLSN"], old["targetLSN"]) != (str(first), str(target)):
        return new
    moved = old["doneLSN"] != str(done)
    return new if moved and _since(observed.now, old) >= PROGRESS_WRITE_S else old


def _seen(observed: ObservedPartition, *, begun: bool) -> tuple[int, int, int] | None:
    """Returns (from, done, target) as replica 0 reports them, or the expected range before the
    backfill begins; None if unknown."""
    first = observed.replica(0)
    if first is None or not first.belongs:
        return None
    if first.backfill is not None:
        return first.backfill.first, first.backfill.next - 1, first.backfill.target
    return None if begun else (first.stored_from, first.stored_from - 1, first.last_index)


def _since(now: dt.datetime, backfill: schema.Backfill) -> float:
    """Returns the seconds since progress was last written."""
    at = dt.datetime.strptime(backfill["progressTime"], TIME).replace(tzinfo=dt.UTC)
    return (now - at).total_seconds()


# --- status -----------------------------------------------------------------------------------


def fields(observed: ObservedPartition, found: Replication) -> schema.PartitionStatus:
    """Returns the fields of status about replication."""
    added: schema.PartitionStatus = {"mode": found.mode}
    if found.backfill is not None:
        added["backfill"] = found.backfill
    if found.switching:
        old = observed.partition.status
        said = {key: value for key, value in old.items() if key in KEPT_WHILE_SWITCHING}
        added |= cast(schema.PartitionStatus, said)
    return added


def explain(
    conditions: list[Condition],
    observed: ObservedPartition,
    found: Replication,
    *,
    bootstrapped: bool,
) -> list[Condition]:
    """Returns the conditions, adapted for a standalone Partition, and BackfillComplete."""
    complete = _complete(observed, found)
    if found.mode != RAFT:
        said = {c.type: c for c in conditions}
        quorum = _quorum(said["QuorumAvailable"], observed, found, bootstrapped=bootstrapped)
        changed = [quorum, _replicated(found), *_progressing(found)]
        changed.append(_ready(said["Ready"], quorum, observed, found, bootstrapped=bootstrapped))
        by_type = said | {c.type: c for c in changed}
        conditions = [by_type[c.type] for c in conditions]
    return conditions if complete is None else [*conditions, complete]


def _quorum(
    said: Condition, observed: ObservedPartition, found: Replication, *, bootstrapped: bool
) -> Condition:
    if found.switching:
        message = "the log is switching to Raft: writes are refused briefly, and clients retry them"
        return Condition("QuorumAvailable", True, "Switching", message)
    if said.status:
        message = "not replicated: one replica serves, without a quorum"
        return Condition("QuorumAvailable", True, Reason.STANDALONE, message)
    if not bootstrapped:
        return said
    pod = names.pod(observed.partition.name, 0)
    message = f"{pod} does not serve; the Partition is not replicated, so no other replica can"
    return replace(said, message=message)


def _replicated(found: Replication) -> Condition:
    if found.mode == STANDALONE:
        message = (
            "one replica, because spec.replication.mode is None: if its volume is lost, the data "
            "is lost; mode Raft replicates it"
        )
        return Condition("Replicated", False, Reason.STANDALONE, message)
    return Condition("Replicated", False, BACKFILLING, "replication is being enabled")


def _progressing(found: Replication) -> list[Condition]:
    if found.mode == STANDALONE:
        return []
    message = "replication is being enabled: status.backfill shows the progress"
    return [Condition("Progressing", True, BACKFILLING, message)]


def _ready(
    said: Condition,
    quorum: Condition,
    observed: ObservedPartition,
    found: Replication,
    *,
    bootstrapped: bool,
) -> Condition:
    serves = bootstrapped and quorum.status and said.reason in SERVING
    if not serves:
        return said
    if found.mode == STANDALONE and any(pod.ready for pod in observed.pods):
        return Condition("Ready", True, Reason.READY, "one replica serves, not replicated")
    if found.mode == STANDALONE:
        message = "serves, but is not complete: waiting for its pod to be ready"
        return Condition("Ready", True, Reason.DEGRADED, message)
    doing = "has stalled, see BackfillComplete" if found.stalled else "is being enabled"
    return Condition(
        "Ready", True, Reason.DEGRADED, f"serves, but is not complete: replication {doing}"
    )


def _complete(observed: ObservedPartition, found: Replication) -> Condition | None:
    """Returns BackfillComplete of partitions that are or were standalone; None for others."""
    status, backfill = observed.partition.status, found.backfill
    if found.mode == STANDALONE:
        message = "not replicated; set spec.replication.mode to Raft to begin the backfill"
        return Condition("BackfillComplete", False, Reason.NOT_REQUESTED, message)
    if found.mode == RAFT:
        was = any(c["type"] == "BackfillComplete" for c in status.get("conditions", []))
        upto = f" up to {backfill['targetLSN']}" if backfill else ""
        message = f"entries{upto} have Raft's metadata, and the Raft group serves"
        return Condition("BackfillComplete", True, Reason.COMPLETED, message) if was else None
    if backfill is None:
        pod = names.pod(observed.partition.name, 0)
        return Condition("BackfillComplete", False, Reason.WAITING, f"{pod} has to answer first")
    first = observed.replica(0)
    if observed.refused and first is not None and first.standalone and first.backfill is None:
        return Condition("BackfillComplete", False, Reason.REFUSED, observed.refused)
    span = f"entries {backfill['fromLSN']} to {backfill['targetLSN']}"
    if found.stalled:
        return Condition(
            "BackfillComplete", False, Reason.STALLED, _why_stalled(observed, backfill)
        )
    message = (
        f"{span} receive Raft's metadata while the partition serves; status.backfill shows the "
        "progress"
    )
    return Condition("BackfillComplete", False, Reason.RUNNING, message)


def _why_stalled(observed: ObservedPartition, backfill: schema.Backfill) -> str:
    pod = names.pod(observed.partition.name, 0)
    at = f"no progress since {backfill['progressTime']}, at {backfill['doneLSN']} of "
    at += f"{backfill['targetLSN']}"
    first = observed.replica(0)
    if first is None:
        return f"{at}: {pod} does not answer; kubectl describe pod {pod} shows the reason"
    if first.disk_full:
        return (
            f"{at}: the volume of {pod} has less free space than its reserve; remove files of the "
            "partition"
        )
    return (
        f"{at}: read kubectl logs {pod} and check the disk of its node; it is safe to delete the "
        "pod, because the backfill resumes where it stopped"
    )

"""Partitions without Raft, and the switch to it: how many replicas there are to be now, the next
step, and what the status says meanwhile.

The truth is what replica 0 says of its volume; while it is silent, what the status last said.
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
"""Of status.mode."""
STALLED_S = 300.0
PROGRESS_WRITE_S = 5.0
"""Progress is written into status at most so often."""

SERVING = frozenset({Reason.READY, Reason.DEGRADED, Reason.NO_LEADER})
"""Reasons of Ready that say nothing against serving without Raft."""
KEPT_WHILE_SWITCHING = frozenset({"leader", "lag", "quorumCriticalPods"})
"""Fields of status: while Raft takes over nobody leads for a moment, which is no news."""
TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True)
class Replication:
    """mode: the MODE column. spec: what is to be followed now: one replica while there is no Raft.
    backfill: status.backfill, None for none. stalled: it has not moved for too long. switching:
    Raft takes over from the standalone log, a moment in which nobody leads, and no outage."""

    mode: PresentMode
    spec: PartitionSpec
    backfill: schema.Backfill | None
    stalled: bool
    switching: bool


def standalone(observed: ObservedPartition, spec: PartitionSpec) -> bool:
    """Whether the partition's log is a plain one."""
    first = observed.replica(0)
    if first is not None and first.belongs:
        return first.standalone
    return spec.mode == STANDALONE or observed.partition.status.get("mode") in (
        STANDALONE,
        BACKFILLING,
    )


def effective(observed: ObservedPartition, spec: PartitionSpec) -> PartitionSpec:
    """The spec to follow now: without Raft there is one replica, whatever spec.replicas says."""
    return replace(spec, replicas=1) if standalone(observed, spec) else spec


def pods_wanted(observed: ObservedPartition, spec: PartitionSpec, pods: int) -> int:
    """Pods that run already stay where the group is about to grow to them."""
    if spec.mode == RAFT and standalone(observed, spec):
        live = observed.objects.get(("StatefulSet", observed.partition.name))
        return max(pods, int(((live or {}).get("spec") or {}).get("replicas", 0)))
    return pods


def refusal(observed: ObservedPartition, spec: PartitionSpec) -> str:
    """Why the spec's mode can't be followed; "" where it can."""
    first = observed.replica(0)
    if spec.mode == RAFT or first is None or not first.belongs or first.standalone:
        return ""
    pod = names.pod(observed.partition.name, 0)
    return (
        f"spec.replication.mode is None, and the volume of {pod} holds a replicated log: set the "
        "mode to Raft to go on with it"
    )


def misplaced(observed: ObservedPartition) -> str:
    """Why volumes without Raft can't be taken over; "" where they can."""
    found = [r.ordinal for r in observed.replicas if r.standalone and r.ordinal]
    if not found:
        return ""
    claim = names.claim(observed.partition.name, found[0])
    return (
        f"the volume {claim} holds a log without Raft, which begins at ordinal 0: bind it to the "
        f"PersistentVolumeClaim {names.claim(observed.partition.name, 0)} instead"
    )


def next_step(observed: ObservedPartition, spec: PartitionSpec) -> Action | None:
    """Of a standalone partition. The replica completes by itself what was begun, so it is asked
    only where nothing is under way."""
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
    # Done is done when the new group serves, and not before.
    if observed.partition.status.get("mode") == BACKFILLING and observed.leader is None:
        return BACKFILLING
    return RAFT


def _served(observed: ObservedPartition) -> bool:
    old = observed.partition.status.get("conditions", [])
    return any(c["type"] == "QuorumAvailable" and c["status"] == "True" for c in old)


# --- progress ---------------------------------------------------------------------------------


def _backfill(observed: ObservedPartition, mode: PresentMode) -> schema.Backfill | None:
    """status.backfill: written when the range is known, then now and then, then at the end."""
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
    """(from, done, target) as replica 0 says it; what is ahead, before it has begun."""
    first = observed.replica(0)
    if first is None or not first.belongs:
        return None
    if first.backfill is not None:
        return first.backfill.first, first.backfill.next - 1, first.backfill.target
    return None if begun else (first.stored_from, first.stored_from - 1, first.last_index)


def _since(now: dt.datetime, backfill: schema.Backfill) -> float:
    """Seconds since progress was written last."""
    at = dt.datetime.strptime(backfill["progressTime"], TIME).replace(tzinfo=dt.UTC)
    return (now - at).total_seconds()


# --- status -----------------------------------------------------------------------------------


def fields(observed: ObservedPartition, found: Replication) -> schema.PartitionStatus:
    """What status says of replication."""
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
    """The conditions, as they are to be read without Raft, and BackfillComplete."""
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
        message = "Raft takes over: writes are refused for a moment, and retried by clients"
        return Condition("QuorumAvailable", True, "Switching", message)
    if said.status:
        message = "not replicated: one replica serves, there is no quorum to speak of"
        return Condition("QuorumAvailable", True, Reason.STANDALONE, message)
    if not bootstrapped:
        return said
    pod = names.pod(observed.partition.name, 0)
    message = f"{pod} does not serve, and nobody stands in for it: not replicated"
    return replace(said, message=message)


def _replicated(found: Replication) -> Condition:
    if found.mode == STANDALONE:
        message = (
            "one replica, by spec.replication.mode None: what its volume loses is lost; Raft "
            "replicates it"
        )
        return Condition("Replicated", False, Reason.STANDALONE, message)
    return Condition("Replicated", False, BACKFILLING, "replication is being switched on")


def _progressing(found: Replication) -> list[Condition]:
    if found.mode == STANDALONE:
        return []
    message = "replication is being switched on: status.backfill says how far it is"
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
    doing = "has stalled, see BackfillComplete" if found.stalled else "is being switched on"
    return Condition(
        "Ready", True, Reason.DEGRADED, f"serves, but is not complete: replication {doing}"
    )


def _complete(observed: ObservedPartition, found: Replication) -> Condition | None:
    """Of partitions that are, or were, standalone."""
    status, backfill = observed.partition.status, found.backfill
    if found.mode == STANDALONE:
        message = "not replicated; setting spec.replication.mode to Raft begins the backfill"
        return Condition("BackfillComplete", False, Reason.NOT_REQUESTED, message)
    if found.mode == RAFT:
        was = any(c["type"] == "BackfillComplete" for c in status.get("conditions", []))
        upto = f" up to {backfill['targetLSN']}" if backfill else ""
        message = f"entries{upto} have Raft's metadata, and the group is Raft's"
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
    message = f"{span} get Raft's metadata while the partition serves; status.backfill counts"
    return Condition("BackfillComplete", False, Reason.RUNNING, message)


def _why_stalled(observed: ObservedPartition, backfill: schema.Backfill) -> str:
    pod = names.pod(observed.partition.name, 0)
    at = f"no progress since {backfill['progressTime']}, at {backfill['doneLSN']} of "
    at += f"{backfill['targetLSN']}"
    first = observed.replica(0)
    if first is None:
        return f"{at}: {pod} does not answer; kubectl describe pod {pod} shows what holds it"
    if first.disk_full:
        return f"{at}: the volume of {pod} is below its reserve; make room by removing files"
    return (
        f"{at}: read kubectl logs {pod}, look at the disk of its node; deleting the pod is safe, "
        "it goes on where it was"
    )

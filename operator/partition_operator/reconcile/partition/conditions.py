"""The conditions of a Partition, derived from its observed group."""

import datetime as dt
from dataclasses import dataclass
from typing import Literal

from partition_operator.api import names, schema
from partition_operator.api.partition import PartitionSpec
from partition_operator.api.times import stamp
from partition_operator.api.words import PartitionCondition, Reason, SnapshotCondition
from partition_operator.reconcile.observed.partition import (
    ObservedMember,
    ObservedPartition,
    ObservedReplica,
)
from partition_operator.reconcile.partition import attributes, losses, placement, storage
from partition_operator.reconcile.partition.membership import lag
from partition_operator.resources.pdb import quorum
from partition_operator.resources.trust import Phase

LOST = (Reason.VOLUME_LOST, Reason.QUORUM_LOST)
"""Reasons of Ready that need a user."""

NO_GROUP = "the group does not exist yet"
VALUES: dict[bool | None, Literal["True", "False", "Unknown"]] = {
    True: "True",
    False: "False",
    None: "Unknown",
}


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition without its time. status: None means Unknown."""

    type: PartitionCondition | SnapshotCondition
    status: bool | None
    reason: str
    message: str


def conditions(
    observed: ObservedPartition, spec: PartitionSpec, cluster_id: str, bootstrapped: bool
) -> list[Condition]:
    """Returns every condition. `written` adds their times."""
    leader = observed.leader
    voters = [m for m in leader.members if m.voter] if leader else []
    active = [m for m in voters if m.recently_active]
    ready_pods = sum(p.ready for p in observed.pods)
    complete = (
        leader is not None
        and len(voters) == spec.replicas
        and len(leader.members) == spec.replicas
        and not leader.changing
    )
    placed = placement.look(observed, spec.replicas)
    disk_full = [r.ordinal for r in observed.replicas if r.disk_full]
    found = [
        Condition("Accepted", True, "Valid", _accepted(observed, spec)),
        Condition(
            "Bootstrapped",
            bootstrapped,
            "Bootstrapped" if bootstrapped else "Waiting",
            f"cluster {cluster_id}" if bootstrapped else "the group does not exist yet",
        ),
        _quorum(
            leader,
            voters,
            active,
            bootstrapped=bootstrapped,
            wanted=spec.replicas,
            not_seen=_refused(observed) if bootstrapped and not observed.replicas else "",
        ),
        Condition(
            "Replicated",
            complete and len(active) == spec.replicas,
            "AllVoters" if complete else "Incomplete",
            f"{len(active)} of {spec.replicas} voters are active",
        ),
        _storage(observed, spec, disk_full),
        Condition(
            "Paused",
            spec.paused,
            "Paused" if spec.paused else "Followed",
            "the operator changes nothing but certificates and fences: set spec.paused to false to "
            "go on"
            if spec.paused
            else "the operator follows the spec",
        ),
        Condition(placement.PLACED, placed.status, placed.reason, placed.message),
        certificates(observed),
        Condition(
            "Progressing",
            not complete,
            "Settled" if complete else "Changing",
            "nothing to do" if complete else _doing(observed, spec, bootstrapped),
        ),
    ]
    found.append(_ready(found, observed, spec, ready_pods))
    return found


def _storage(observed: ObservedPartition, spec: PartitionSpec, disk_full: list[int]) -> Condition:
    if disk_full:
        message = (
            f"{_pods(observed, disk_full)} refuse writes: their volumes have less free space than "
            "the reserve; free space, or raise spec.storage.size"
        )
        return Condition("StorageReady", False, Reason.DISK_FULL, message)
    if growing := storage.growing(observed, spec):
        size = storage.wanted_size(observed, spec)
        message = f"the volumes of {_pods(observed, growing)} grow to {size}"
        return Condition("StorageReady", True, Reason.GROWING, message)
    if told := attributes.explain(observed, spec):
        return Condition("StorageReady", True, *told)
    return Condition("StorageReady", True, "Ready", "every volume has enough free space")


def _accepted(observed: ObservedPartition, spec: PartitionSpec) -> str:
    """Returns the message of Accepted: which part of a valid spec the operator can't follow."""
    why = storage.not_followed(observed, spec)
    return f"the spec is valid; {why}" if why else "the spec is valid"


def refused(reason: str, message: str) -> list[Condition]:
    """Returns the conditions that replace the others if the operator can't follow the spec."""
    return [
        Condition("Accepted", False, reason, message),
        Condition("Ready", False, reason, message),
    ]


def leaving(found: list[Condition], objects: str) -> list[Condition]:
    """Returns the conditions while objects of the Partition are being deleted. A finalizer may
    delay the deletion without end."""
    message = (
        f"the operator only renews certificates until these objects are deleted: {objects}; if one "
        "stays, its metadata.finalizers name the programs that have to release it: check that "
        "these programs run, or remove the finalizers of programs that no longer exist"
    )
    told = Condition("Progressing", True, "ObjectsLeaving", message)
    return [told if c.type == told.type else c for c in found]


def _quorum(
    leader: ObservedReplica | None,
    voters: list[ObservedMember],
    active: list[ObservedMember],
    *,
    bootstrapped: bool,
    wanted: int,
    not_seen: str = "",
) -> Condition:
    """not_seen: why the operator can't query the replicas; "" if it can."""
    if leader is None and not_seen:
        return Condition("QuorumAvailable", None, "NotSeen", not_seen)
    if leader is None:
        message = "no replica is the leader" if bootstrapped else NO_GROUP
        return Condition("QuorumAvailable", False, Reason.NO_LEADER, message)
    spare = len(active) - quorum(len(voters))
    # A group that is still growing has no spare voter yet. That is normal.
    if spare <= 0 and len(voters) >= wanted > 1:
        return Condition(
            "QuorumAvailable",
            True,
            Reason.NO_SPARE,
            f"{len(active)} of {len(voters)} voters are active: losing one more loses the quorum",
        )
    return Condition(
        "QuorumAvailable", True, Reason.QUORUM, f"{len(active)} of {len(voters)} voters are active"
    )


def certificates(  # noqa: PLR0911  # the most urgent first: one return for each
    observed: ObservedPartition,
) -> Condition:
    """Returns CertificatesReady. It is False if a replica may refuse a certificate."""
    seen = observed.certificates
    if seen.problem:
        return Condition("CertificatesReady", False, "AuthorityInvalid", seen.problem)
    if seen.refused:
        return Condition("CertificatesReady", False, Reason.REFUSED, _refused(observed))
    if seen.source_problem:
        return Condition("CertificatesReady", False, Reason.SOURCE_INVALID, seen.source_problem)
    if seen.changing:
        return Condition("CertificatesReady", False, "AuthorityChanging", _changing(observed))
    if seen.phase is Phase.OVERLAP:
        return Condition("CertificatesReady", True, "AuthorityOverlap", _overlap(observed))
    if seen.authority_ends is not None:
        return Condition(
            "CertificatesReady",
            True,
            "AuthorityEnding",
            "the certificate authority and all its certificates expire at "
            f"{seen.authority_ends:%Y-%m-%dT%H:%M:%SZ}: put a new authority into its Secret "
            "before then",
        )
    return Condition("CertificatesReady", True, "Issued", "certificates are issued")


def _changing(observed: ObservedPartition) -> str:
    seen = observed.certificates
    message = (
        "the certificate authority is being replaced: replicas and clients trust the old and the "
        "new one, and receive new certificates once all of them do; no restart is needed"
    )
    if seen.phase is Phase.SPREADING and seen.unseen:
        return f"{message}; not seen to trust the new one yet: {', '.join(seen.unseen)}"
    return message


def _overlap(observed: ObservedPartition) -> str:
    until = observed.certificates.until
    time = "the last replica has its new certificate"
    if until is not None and until > observed.now:
        time = f"{until:%Y-%m-%dT%H:%M:%SZ}"
    return (
        "all certificates come from the new authority; the old one is trusted until "
        f"{time}, for clients that still have old certificates"
    )


def _refused(observed: ObservedPartition) -> str:
    """Returns the replicas whose TLS handshake with the operator fails, and why; "" if there are
    none."""
    refused = observed.certificates.refused
    return "; ".join(
        f"{names.pod(observed.partition.name, ordinal)}: {why}"
        for ordinal, why in sorted(refused.items())
    )


def _ready(
    found: list[Condition], observed: ObservedPartition, spec: PartitionSpec, ready_pods: int
) -> Condition:
    by_type = {condition.type: condition for condition in found}
    if lost := losses.explain(observed, bootstrapped=bool(by_type["Bootstrapped"].status)):
        return Condition("Ready", False, *lost)
    for kind in ("Bootstrapped", "QuorumAvailable"):
        if by_type[kind].status is None:
            return Condition("Ready", None, by_type[kind].reason, by_type[kind].message)
        if not by_type[kind].status:
            return Condition(
                "Ready",
                False,
                by_type[kind].reason,
                _doing(observed, spec, bool(by_type["Bootstrapped"].status)),
            )
    if not by_type["StorageReady"].status:
        return Condition("Ready", False, Reason.DISK_FULL, by_type["StorageReady"].message)
    if not by_type["Replicated"].status or ready_pods < spec.replicas:
        doing = _doing(observed, spec, True)
        return Condition("Ready", True, Reason.DEGRADED, f"serves, but is not complete: {doing}")
    return Condition("Ready", True, Reason.READY, "every replica serves")


def _doing(observed: ObservedPartition, spec: PartitionSpec, bootstrapped: bool) -> str:
    """Describes the next step of the group, for a person on call who reads only one line."""
    if stuck := placement.stuck(observed):
        pods = _pods(observed, [pod.ordinal for pod in stuck])
        return f"waiting for {pods} to end; their nodes do not answer: see condition PodsPlaced"
    missing = [n for n in range(spec.replicas) if observed.pod(n) is None]
    if missing:
        return f"waiting for pods {_pods(observed, missing)} to be created"
    if why := _unheard(observed, spec.replicas):
        return why
    if not bootstrapped:
        return f"bootstrapping {names.pod(observed.partition.name, 0)}"
    leader = observed.leader
    if leader is None:
        return "waiting for the replicas to elect a leader"
    return _group_doing(observed, leader, spec.replicas)


def _unheard(observed: ObservedPartition, wanted: int) -> str:
    """Returns which replicas tell nothing of the group, and why; "" if all do."""
    fenced = {replica.ordinal for replica in observed.fenced}
    silent = [n for n in range(wanted) if observed.replica(n) is None and n not in fenced]
    if silent:
        pods = _pods(observed, silent)
        return f"waiting for {pods} to answer: kubectl describe pod shows the reason"
    return fenced_pods(observed) if fenced else ""


def _group_doing(observed: ObservedPartition, leader: ObservedReplica, wanted: int) -> str:
    """Like `_doing`, for a group with a leader."""
    for member in leader.members:
        pod = names.pod(observed.partition.name, observed.ordinal_of(member.address))
        if not member.voter:
            return f"{pod} is catching up, {lag(leader, member)} entries behind"
        if not member.recently_active:
            return f"the leader can't reach {pod}"
    if len(leader.members) < wanted:
        return "adding members"
    if len(leader.members) > wanted:
        return "removing members"
    return "waiting for pods to be ready"


def fenced_pods(observed: ObservedPartition) -> str:
    """Returns which pods are fenced, and the way back."""
    which = _pods(observed, sorted(replica.ordinal for replica in observed.fenced))
    return (
        f"{which} answers nobody, and its volume is closed: remove the pod from annotation "
        f"{names.ANNOTATION_FENCE} to end that"
    )


def _pods(observed: ObservedPartition, ordinals: list[int]) -> str:
    return ", ".join(names.pod(observed.partition.name, ordinal) for ordinal in ordinals)


def written(
    condition: Condition, old: schema.Condition | None, now: dt.datetime, generation: int
) -> schema.Condition:
    """Returns the condition as status stores it. Its transition time changes only if its status
    changes."""
    value = VALUES[condition.status]
    since = old["lastTransitionTime"] if old and old["status"] == value else stamp(now)
    return {
        "type": condition.type,
        "status": value,
        "reason": condition.reason,
        "message": condition.message,
        "lastTransitionTime": since,
        "observedGeneration": generation,
    }


def word(found: list[Condition]) -> str:
    """Returns the word for the STATUS column."""
    by_type = {condition.type: condition for condition in found}
    if not by_type["Accepted"].status:
        return by_type["Accepted"].reason
    reason = by_type["Ready"].reason
    bootstrapping = "Bootstrapped" in by_type and not by_type["Bootstrapped"].status
    return "Bootstrapping" if bootstrapping and reason not in LOST else reason

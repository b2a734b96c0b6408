"""Status: conditions, the words of the printer columns, and the events of what changed."""

import datetime as dt
from dataclasses import dataclass
from typing import Literal, cast

from partition_operator.api import names, schema
from partition_operator.api.events import Event
from partition_operator.api.partition import PartitionSpec
from partition_operator.api.times import stamp
from partition_operator.api.words import (
    MemberRole,
    PartitionCondition,
    SnapshotCondition,
)
from partition_operator.reconcile.partition import losses, placement, storage
from partition_operator.reconcile.partition.membership import PROMOTE_LAG_MAX, lag
from partition_operator.reconcile.seen.partition import Member, Observed, Replica
from partition_operator.resources.pdb import quorum

NO_GROUP = "the group does not exist yet"
VALUES: dict[bool | None, Literal["True", "False", "Unknown"]] = {
    True: "True",
    False: "False",
    None: "Unknown",
}
KEPT = frozenset(
    {
        "replicas",
        "readyReplicas",
        "ready",
        "leader",
        "mode",
        "backfill",
        "members",
        "restore",
        "restored",
        "storage",
    }
)
"""Of the status of a Partition whose spec is refused: it goes on as it was."""


@dataclass(frozen=True, slots=True)
class Condition:
    """status: None for Unknown."""

    type: PartitionCondition | SnapshotCondition
    status: bool | None
    reason: str
    message: str


def conditions(
    observed: Observed, spec: PartitionSpec, cluster_id: str, bootstrapped: bool
) -> list[Condition]:
    """Every condition, from what is seen; times are added where they are merged."""
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
        Condition(
            "StorageReady",
            not disk_full,
            "DiskFull" if disk_full else "Ready",
            _pods(observed, disk_full)
            + " refuse writes, their volumes are below the reserve: make room or enlarge them"
            if disk_full
            else "every volume has room",
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


def _accepted(observed: Observed, spec: PartitionSpec) -> str:
    """Says what of a valid spec is not followed."""
    why = storage.not_followed(observed, spec)
    return f"the spec is valid; {why}" if why else "the spec is valid"


def refused(reason: str, message: str) -> list[Condition]:
    """What stands in place of the rest where the spec can't be followed."""
    return [
        Condition("Accepted", False, reason, message),
        Condition("Ready", False, reason, message),
    ]


def leaving(found: list[Condition], objects: str) -> list[Condition]:
    """The conditions while objects of ours are being deleted, which may take for ever."""
    message = (
        f"only certificates are renewed until these objects are gone: {objects}; if one stays, its "
        "metadata.finalizers name the programs that have to release it: see that they run, or "
        "remove the finalizers of programs that are gone for good"
    )
    told = Condition("Progressing", True, "ObjectsLeaving", message)
    return [told if c.type == told.type else c for c in found]


def _quorum(
    leader: Replica | None,
    voters: list[Member],
    active: list[Member],
    *,
    bootstrapped: bool,
    wanted: int,
    not_seen: str = "",
) -> Condition:
    """not_seen: why the operator can't ask the replicas."""
    if leader is None and not_seen:
        return Condition("QuorumAvailable", None, "NotSeen", not_seen)
    if leader is None:
        message = "no replica leads" if bootstrapped else NO_GROUP
        return Condition("QuorumAvailable", False, "NoLeader", message)
    spare = len(active) - quorum(len(voters))
    # A group that still grows has no spare yet, which is no news.
    if spare <= 0 and len(voters) >= wanted > 1:
        return Condition(
            "QuorumAvailable",
            True,
            "NoSpare",
            f"{len(active)} of {len(voters)} voters are active: losing one more loses the quorum",
        )
    return Condition(
        "QuorumAvailable", True, "Quorum", f"{len(active)} of {len(voters)} voters are active"
    )


def certificates(observed: Observed) -> Condition:
    """False as long as anything stands between a certificate and its acceptance."""
    seen = observed.certificates
    if seen.problem:
        return Condition("CertificatesReady", False, "AuthorityInvalid", seen.problem)
    if seen.refused:
        return Condition("CertificatesReady", False, "Refused", _refused(observed))
    if seen.changing:
        return Condition(
            "CertificatesReady",
            False,
            "AuthorityChanging",
            "another authority takes over: replicas and clients trust both, and get new "
            "certificates when all of them do; nothing has to be restarted",
        )
    if seen.authority_ends is not None:
        return Condition(
            "CertificatesReady",
            True,
            "AuthorityEnding",
            f"the authority ends at {seen.authority_ends:%Y-%m-%dT%H:%M:%SZ}, and every "
            "certificate with it: put another one into its Secret before",
        )
    return Condition("CertificatesReady", True, "Issued", "certificates are issued")


def _refused(observed: Observed) -> str:
    """The replicas that TLS keeps the operator from, and why; "" if there are none."""
    refused = observed.certificates.refused
    return "; ".join(
        f"{names.pod(observed.partition.name, ordinal)}: {why}"
        for ordinal, why in sorted(refused.items())
    )


def _ready(
    found: list[Condition], observed: Observed, spec: PartitionSpec, ready_pods: int
) -> Condition:
    by_type = {condition.type: condition for condition in found}
    if lost := losses.explain(observed, bootstrapped=bool(by_type["Bootstrapped"].status)):
        return Condition("Ready", False, "VolumeLost", lost)
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
        return Condition("Ready", False, "DiskFull", by_type["StorageReady"].message)
    if not by_type["Replicated"].status or ready_pods < spec.replicas:
        doing = _doing(observed, spec, True)
        return Condition("Ready", True, "Degraded", f"serves, but is not complete: {doing}")
    return Condition("Ready", True, "Ready", "every replica serves")


def _doing(observed: Observed, spec: PartitionSpec, bootstrapped: bool) -> str:
    """The next thing, in words: the first line to read at night."""
    if stuck := placement.stuck(observed):
        pods = _pods(observed, [pod.ordinal for pod in stuck])
        return f"waiting for {pods} to end, whose nodes do not answer: see condition PodsPlaced"
    missing = [n for n in range(spec.replicas) if observed.pod(n) is None]
    if missing:
        return f"waiting for pods {_pods(observed, missing)} to be created"
    silent = [n for n in range(spec.replicas) if observed.replica(n) is None]
    if silent:
        pods = _pods(observed, silent)
        return f"waiting for {pods} to answer: kubectl describe pod shows what holds them"
    if not bootstrapped:
        return f"bootstrapping {names.pod(observed.partition.name, 0)}"
    leader = observed.leader
    if leader is None:
        return "waiting for the replicas to elect a leader"
    return _group_doing(observed, leader, spec.replicas)


def _group_doing(observed: Observed, leader: Replica, wanted: int) -> str:
    """The same, of a group that has a leader."""
    for member in leader.members:
        pod = names.pod(observed.partition.name, observed.ordinal_of(member.address))
        if not member.voter:
            return f"{pod} is catching up, {lag(leader, member)} entries behind"
        if not member.recently_active:
            return f"{pod} is not reached by the leader"
    if len(leader.members) < wanted:
        return "adding members"
    if len(leader.members) > wanted:
        return "removing members"
    return "waiting for pods to be ready"


def _pods(observed: Observed, ordinals: list[int]) -> str:
    return ", ".join(names.pod(observed.partition.name, ordinal) for ordinal in ordinals)


def status(
    observed: Observed,
    spec: PartitionSpec | None,
    found: list[Condition],
    cluster_id: str,
    bootstrapped: bool,
) -> schema.PartitionStatus:
    """The whole status. Nothing in it moves while nothing happens: an idle Partition is not
    written."""
    partition = observed.partition
    old = {c["type"]: c for c in partition.status.get("conditions", [])}
    now = observed.now
    body: schema.PartitionStatus = {
        "observedGeneration": partition.generation,
        "conditions": [written(c, old.get(c.type), now, partition.generation) for c in found],
        "state": _state(found),
        "selector": ",".join(f"{k}={v}" for k, v in names.selector(partition.name).items()),
    }
    if has := storage.recorded(observed):
        body["storage"] = has
    if cluster_id:
        body["clusterID"] = cluster_id
        body["bootstrapped"] = bootstrapped
    if spec is None:
        known = partition.status
        return body | cast(
            schema.PartitionStatus, {key: value for key, value in known.items() if key in KEPT}
        )
    leader = observed.leader
    ready = sum(p.ready for p in observed.pods)
    body |= {
        "mode": "Raft",
        "replicas": len(observed.pods),
        "readyReplicas": ready,
        "ready": f"{ready}/{spec.replicas}",
        "leader": names.pod(partition.name, leader.ordinal) if leader else "",
        "lag": _lag_word(leader),
        "members": _members(observed, leader),
        "quorumCriticalPods": _critical(observed, leader),
    }
    if leader is not None:
        body["term"] = str(leader.term)
    return body


def written(
    condition: Condition, old: schema.Condition | None, now: dt.datetime, generation: int
) -> schema.Condition:
    """As it stands in status; its time changes with its status alone."""
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


def _state(found: list[Condition]) -> str:
    """One word for the STATUS column."""
    by_type = {condition.type: condition for condition in found}
    if not by_type["Accepted"].status:
        return by_type["Accepted"].reason
    reason = by_type["Ready"].reason
    bootstrapping = "Bootstrapped" in by_type and not by_type["Bootstrapped"].status
    return "Bootstrapping" if bootstrapping and reason != "VolumeLost" else reason


def _lag_word(leader: Replica | None) -> str:
    """Of the slowest member; rounded, so that it doesn't flicker under load."""
    if leader is None:
        return ""
    worst = max((lag(leader, member) for member in leader.members), default=0)
    return "0" if worst <= PROMOTE_LAG_MAX else f"~{10 ** (len(str(worst)) - 1)}"


def _members(observed: Observed, leader: Replica | None) -> list[schema.Member]:
    if leader is None:
        return observed.partition.status.get("members", [])
    return [
        {
            "memberID": f"{member.member_id:016x}",
            "pod": names.pod(observed.partition.name, observed.ordinal_of(member.address)),
            "role": MemberRole.VOTER if member.voter else MemberRole.LEARNER,
        }
        for member in leader.members
    ]


def _critical(observed: Observed, leader: Replica | None) -> list[str]:
    """Pods whose loss loses the quorum now."""
    if leader is None:
        return []
    voters = [m for m in leader.members if m.voter]
    active = [m for m in voters if m.recently_active]
    if len(active) > quorum(len(voters)):
        return []
    return sorted(
        names.pod(observed.partition.name, observed.ordinal_of(m.address)) for m in active
    )


def events(old: schema.PartitionStatus, new: schema.PartitionStatus) -> list[Event]:
    """What the change from one status to the next tells people."""
    before = {c["type"]: c for c in old.get("conditions", [])}
    found = [e for c in new["conditions"] if (e := _condition_event(before.get(c["type"]), c))]
    leader, previous = new.get("leader", ""), old.get("leader", "")
    if leader and leader != previous and old.get("bootstrapped"):
        after = f", after {previous}" if previous else ""
        message = f"{leader} leads in term {new.get('term')}{after}"
        found.append(Event("Normal", "LeaderChanged", message))
    roles = {m["memberID"]: m for m in old.get("members", [])}
    if old.get("members"):
        for member in new.get("members", []):
            was = roles.pop(member["memberID"], None)
            if was is None:
                message = f"{member['pod']} is a {member['role']}"
                found.append(Event("Normal", "MemberAdded", message))
            elif was["role"] == MemberRole.LEARNER and member["role"] == MemberRole.VOTER:
                message = f"{member['pod']} has caught up and is a voter"
                found.append(Event("Normal", "LearnerPromoted", message))
        if "members" in new:
            found += [
                Event("Normal", "MemberRemoved", f"{member['pod']} is no member any more")
                for member in roles.values()
            ]
    return found


def _is_news(old: schema.Condition | None, new: schema.Condition) -> bool:
    if old is None or (old["status"], old["reason"]) != (new["status"], new["reason"]):
        return True
    # Of these the message names what is wrong, so another message is news.
    told = new["type"] == "Accepted" or new["reason"] in ("VolumeLost", "PodStuck")
    return bool(told and old["message"] != new["message"])


def _condition_event(  # noqa: PLR0911  # a flat match over conditions
    old: schema.Condition | None, new: schema.Condition
) -> Event | None:
    if not _is_news(old, new):
        return None
    match new["type"], new["status"], new["reason"]:
        case "Accepted", "False", reason:
            return Event("Warning", reason, new["message"])
        case "Bootstrapped", "True", _:
            return Event("Normal", "Bootstrapped", new["message"])
        case "QuorumAvailable", _, _:
            return _quorum_event(old, new)
        case "CertificatesReady" | "StorageReady", _, _:
            return _need_event(old, new)
        case ("Ready", "False", "VolumeLost") | (placement.PLACED, "False", _):
            return Event("Warning", new["reason"], new["message"])
        case "BackfillComplete", _, _:
            return _backfill_event(old, new)
        case "Ready", "True", "Ready":
            return Event("Normal", "Ready", new["message"])
    return None


def _quorum_event(old: schema.Condition | None, new: schema.Condition) -> Event | None:
    match new["status"], new["reason"]:
        case "False", _ if old is not None and old["status"] == "True":
            return Event("Warning", "QuorumLost", new["message"])
        case "True", "NoSpare":
            return Event("Warning", "QuorumAtRisk", new["message"])
        case "True", "Quorum" | "NotReplicated" if (
            old is not None
            and (old["status"] == "False" or old["reason"] == "NoSpare")
            and old["message"] != NO_GROUP
        ):
            return Event("Normal", "QuorumAvailable", new["message"])
    return None


def _need_event(old: schema.Condition | None, new: schema.Condition) -> Event | None:
    """Of what a group needs to go on."""
    match new["type"], new["status"]:
        case "CertificatesReady", "False":
            return Event("Warning", f"Certificates{new['reason']}", new["message"])
        case "CertificatesReady", _ if old is not None:
            return Event("Normal", f"Certificates{new['reason']}", new["message"])
        case "StorageReady", "False":
            return Event("Warning", "DiskFull", new["message"])
        case "StorageReady", _ if old is not None:
            return Event("Normal", "DiskFreed", new["message"])
    return None


def _backfill_event(old: schema.Condition | None, new: schema.Condition) -> Event | None:
    match new["reason"]:
        # Not for one that had stalled and goes on.
        case "Running" if old is None or old["reason"] in ("NotRequested", "Waiting"):
            return Event("Normal", "BackfillStarted", new["message"])
        case "Stalled" | "Refused":
            return Event("Warning", "BackfillStalled", new["message"])
        case "Completed":
            return Event("Normal", "BackfillCompleted", new["message"])
    return None

"""`kubectl partition status`: the members, and what needs attention. The views are pure."""

import argparse
import datetime as dt
from typing import Any

from partition_kubectl import names, pods
from partition_kubectl.kubectl import Body, Kubectl
from partition_kubectl.output import age, indented, put, rendered, size, table

SNAPSHOTS_SHOWN = 5

BUSY = frozenset({"Fenced", "Hibernated", "Paused", "Progressing"})
"""Conditions that say something if they are True. All others do if they are not."""
AS_ASKED = frozenset({("Replicated", "Standalone"), ("BackfillComplete", "NotRequested")})
"""Types and reasons of conditions of a standalone Partition that are False because the spec asks
for it."""
ON_ITS_WAY = frozenset(
    {
        ("Fenced", "Fencing"),
        ("Fenced", "UnknownPod"),
        ("Hibernated", "Stopping"),
        ("Hibernated", "Waiting"),
    }
)
"""Types and reasons of conditions that say something although they are False."""
SUMMARY = frozenset({"SnapshotsPruned"})
"""Conditions that repeat another one."""


def run(kubectl: Kubectl, options: argparse.Namespace) -> int:
    if options.name:
        found = look(kubectl, options.name)
        shown = rendered(found, options.output) if options.output else text(found, _now())
        put(shown)
        return 0
    everywhere = ("--all-namespaces",) if options.all_namespaces else ()
    items = kubectl.find(names.PARTITIONS, "", *everywhere)
    if options.output:
        put(rendered([summary(item) for item in items], options.output))
    else:
        put(overview(items, namespaces=options.all_namespaces, now=_now()))
    return 0


def look(kubectl: Kubectl, name: str) -> dict[str, Any]:
    """Reads everything that the view of one Partition needs."""
    partition = kubectl.get(names.PARTITIONS, name)
    replicas, no_pods = kubectl.find_if_allowed("pods", names.replicas(name))
    claims, no_claims = kubectl.find_if_allowed("persistentvolumeclaims", names.replicas(name))
    snapshots, no_snapshots = kubectl.find_if_allowed(names.SNAPSHOTS)
    mine = [s for s in snapshots if s["spec"]["partitionRef"]["name"] == name]
    notes = [note for note in (no_pods, no_claims, no_snapshots) if note]
    seen = None if no_pods else replicas
    return view(partition, seen, claims, mine) | ({"notes": notes} if notes else {})


def view(
    partition: Body, replicas: list[Body] | None, claims: list[Body], snapshots: list[Body]
) -> dict[str, Any]:
    """Returns the state of a Partition as JSON values. replicas: None if they may not be seen.
    Pure."""
    conditions = pods.conditions(partition)
    return summary(partition) | {
        "members": members(partition, replicas, claims),
        "certificates": _said(conditions.get("CertificatesReady")),
        "rollout": _said(conditions.get("RolledOut")),
        "schedule": (partition.get("status") or {}).get("snapshots") or {},
        "snapshots": [_snapshot(one) for one in newest(snapshots)],
        "attention": missing(partition),
        "conditions": list(conditions.values()),
    }


def summary(partition: Body) -> dict[str, Any]:
    """Returns one line about a Partition. Pure."""
    metadata, spec = partition["metadata"], partition.get("spec") or {}
    status = partition.get("status") or {}
    ready = pods.conditions(partition).get("Ready")
    return {
        "name": metadata["name"],
        "namespace": metadata["namespace"],
        "created": metadata.get("creationTimestamp", ""),
        "state": status.get("state", ""),
        "current": status.get("observedGeneration") == metadata.get("generation"),
        "ready": status.get("ready", ""),
        "mode": status.get("mode", ""),
        "leader": status.get("leader", ""),
        "term": status.get("term", ""),
        "lag": status.get("lag", ""),
        "image": status.get("image", ""),
        "revision": status.get("revision", ""),
        "paused": bool(spec.get("paused")),
        "hibernated": bool(spec.get("hibernated")),
        "fenced": fenced(partition),
        "message": (ready or {}).get("message", ""),
    }


def fenced(partition: Body) -> list[str]:
    """Returns the pods that a user has fenced. Pure."""
    marks = partition["metadata"].get("annotations") or {}
    found = [pod.strip() for pod in str(marks.get(names.FENCE, "")).split(",")]
    return sorted({pod for pod in found if pod})


def members(
    partition: Body, replicas: list[Body] | None, claims: list[Body]
) -> list[dict[str, Any]]:
    """Returns a row for each pod and each member without one. replicas: None if they may not be
    seen. Pure."""
    status = partition.get("status") or {}
    known = {str(m.get("pod", "")): m for m in status.get("members") or []}
    by_name = {pods.name(pod): pod for pod in replicas or []}
    volumes = {one["metadata"]["name"].partition("-")[2]: one for one in claims}
    critical = set(status.get("quorumCriticalPods") or [])
    rows = []
    for name in sorted({*known, *by_name} - {""}, key=_ordinal):
        member, pod = known.get(name) or {}, by_name.get(name)
        role = str(member.get("role", "")) or "not a member"
        rows.append(
            {
                "pod": name,
                "role": "leader" if name == status.get("leader") else role,
                "memberID": str(member.get("memberID", "")),
                "ready": None if replicas is None else pod is not None and pods.is_ready(pod),
                "restarts": pods.replica(pod).get("restartCount", 0) if pod else None,
                "version": pods.version(pods.image(pod)) if pod else "",
                "revision": _revision(pod, status.get("revision", "")),
                "node": (pod.get("spec") or {}).get("nodeName", "") if pod else "",
                "volume": _volume(volumes.get(name)),
                "quorumCritical": name in critical,
                "trouble": pods.trouble(pod)
                if pod
                else "does not exist"
                if replicas is not None
                else "",
            }
        )
    return rows


def missing(partition: Body) -> list[str]:
    """Returns the conditions that say what is missing or in progress. Pure."""
    found = [
        f"{one['type']}: {one.get('message', '')}"
        for one in pods.conditions(partition).values()
        if one["type"] not in SUMMARY and is_news(one)
    ]
    metadata, status = partition["metadata"], partition.get("status") or {}
    if status.get("observedGeneration") != metadata.get("generation"):
        found.insert(0, "the operator, which has not seen the newest spec yet")
    return found


def is_news(condition: Body) -> bool:
    """Whether a condition says what is missing or in progress. Pure."""
    if (condition["type"], condition.get("reason")) in AS_ASKED:
        return False
    if (condition["type"], condition.get("reason")) in ON_ITS_WAY:
        return True
    return bool((condition["status"] == "True") == (condition["type"] in BUSY))


def newest(snapshots: list[Body]) -> list[Body]:
    ordered = sorted(snapshots, key=lambda s: str(s["metadata"].get("creationTimestamp", "")))
    return list(reversed(ordered))[:SNAPSHOTS_SHOWN]


def _snapshot(body: Body) -> dict[str, Any]:
    status = body.get("status") or {}
    return {
        "name": body["metadata"]["name"],
        "created": body["metadata"].get("creationTimestamp", ""),
        "state": status.get("state", ""),
        "lsn": status.get("lsn", ""),
        "sizeBytes": status.get("sizeBytes"),
        "location": status.get("location", ""),
    }


def _ordinal(pod: str) -> tuple[str, int]:
    stem, _, number = pod.rpartition("-")
    return stem, int(number) if number.isdigit() else -1


def _revision(pod: Body | None, newest_revision: str) -> str:
    if pod is None:
        return ""
    has = (pod["metadata"].get("labels") or {}).get(names.LABEL_REVISION, "")
    if not has or not newest_revision:
        return ""
    return "current" if has == newest_revision else "behind"


def _volume(claim: Body | None) -> str:
    if claim is None:
        return ""
    spec, status = claim.get("spec") or {}, claim.get("status") or {}
    asked = ((spec.get("resources") or {}).get("requests") or {}).get("storage", "")
    has = str((status.get("capacity") or {}).get("storage") or f"{asked} asked")
    if has.isdigit():
        has = size(int(has))  # some drivers report bytes
    return f"{has} {spec.get('storageClassName') or ''}".rstrip()


def _said(condition: Body | None) -> dict[str, str]:
    if condition is None:
        return {}
    return {key: str(condition.get(key, "")) for key in ("status", "reason", "message")}


# --- for people -------------------------------------------------------------------------------


def overview(items: list[Body], *, namespaces: bool, now: dt.datetime) -> str:
    """Returns a table of Partitions. Pure."""
    if not items:
        return "There are no Partitions here. --all-namespaces looks everywhere."
    rows = []
    for item in items:
        one = summary(item)
        where = [one["namespace"]] if namespaces else []
        marks = [word for word in ("paused", "hibernated") if one[word]]
        if one["fenced"]:
            marks.append("fenced")
        cells = [one["name"], one["state"], one["ready"], one["mode"], one["leader"], one["lag"]]
        rows.append([*where, *cells, ",".join(marks), age(one["created"], now)])
    headings = ["NAME", "STATUS", "READY", "MODE", "LEADER", "LAG", "MARKS", "AGE"]
    return table([*(["NAMESPACE"] if namespaces else []), *headings], rows)


def text(found: dict[str, Any], now: dt.datetime) -> str:
    """Returns the view of one Partition for people. Pure."""
    parts = [_heading(found, now), _members_text(found["members"]), _snapshots_text(found, now)]
    if found["attention"]:
        told = indented("\n".join(found["attention"]))
        parts.append(f"Needs attention, or is in progress:\n{told}")
    else:
        parts.append("Nothing needs attention.")
    parts += [f"Not shown: {note}" for note in found.get("notes", [])]
    return "\n\n".join(parts)


def _heading(found: dict[str, Any], now: dt.datetime) -> str:
    rows = [
        ("Partition:", f"{found['namespace']}/{found['name']}, {age(found['created'], now)} old"),
        ("Status:", f"{found['state'] or 'none yet'}: {found['message']}".rstrip(": ")),
        ("Pods:", f"{found['ready'] or 'none yet'} ready, mode {found['mode'] or 'not known yet'}"),
        ("Leader:", f"{found['leader'] or 'none'}, term {found['term'] or 'unknown'}"),
        ("Lag:", f"{found['lag'] or 'unknown'}, in entries, of the slowest member"),
        ("Image:", found["image"] or "not known yet"),
    ]
    rows += [
        (f"{title}:", f"{one['reason']}: {one['message']}")
        for title, one in (("Certificates", found["certificates"]), ("Rollout", found["rollout"]))
        if one
    ]
    if found["paused"]:
        rows.append(("Paused:", "the operator changes nothing: kubectl partition resume"))
    if found["hibernated"]:
        rows.append(("Hibernated:", "no pod runs: kubectl partition wake"))
    if found["fenced"]:
        rows.append(("Fenced:", ", ".join(found["fenced"])))
    width = max(len(key) for key, _ in rows) + 1
    return "\n".join(key.ljust(width) + str(value) for key, value in rows)


def _members_text(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "No pods and no members yet."
    headings = ["POD", "ROLE", "READY", "RESTARTS", "VERSION", "TEMPLATE", "NODE", "VOLUME"]
    keys = ["pod", "role", "ready", "restarts", "version", "revision", "node", "volume"]
    cells = [
        ["yes" if row[key] is True else "no" if row[key] is False else row[key] for key in keys]
        for row in rows
    ]
    lines = [table(headings, cells)]
    lines += [f"{row['pod']} {row['trouble']}." for row in rows if row["trouble"]]
    critical = [row["pod"] for row in rows if row["quorumCritical"]]
    if critical:
        lines.append(f"Losing one of these loses the quorum: {', '.join(critical)}.")
    return "\n".join(lines)


def _snapshots_text(found: dict[str, Any], now: dt.datetime) -> str:
    schedule, rows = found["schedule"], found["snapshots"]
    lines = []
    if schedule.get("schedule"):
        held = ", suspended" if schedule.get("suspended") else ""
        following = schedule.get("nextScheduleTime", "unknown")
        lines.append(f"Snapshots: {schedule['schedule']}{held}; the next one at {following}.")
    else:
        lines.append("Snapshots: no schedule.")
    if rows:
        cells = [
            [r["name"], r["state"], r["lsn"], size(r["sizeBytes"]), age(r["created"], now)]
            for r in rows
        ]
        lines.append(table(["NAME", "STATUS", "LSN", "SIZE", "AGE"], cells))
    return "\n".join(lines)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)  # noqa: TID251  # ages on a screen

"""`kubectl partition why`: why a Partition is not as it shall be, and what to do about it.

`explain` is pure. `advice` has the table of what to do.
"""

import argparse
import datetime as dt
from dataclasses import asdict, dataclass

from partition_kubectl import names, pods
from partition_kubectl.advice import Advice, for_condition, for_state
from partition_kubectl.errors import NotAsWanted
from partition_kubectl.kubectl import Body, Kubectl, seen_at
from partition_kubectl.output import age, indented, moment, put, rendered
from partition_kubectl.status import SUMMARY, is_news

EVENTS_SHOWN = 5
EVENTS_OLD = dt.timedelta(hours=1)
IMAGE_TROUBLE = "Image"
"""Part of each reason with which a container waits for its image, such as ErrImagePull."""
READY_STATE = "Ready"
TOLD_TWICE = frozenset({"Fenced"})
"""Conditions that are told although STATUS repeats them: the way out is theirs alone."""
SEEN_LATE = dt.timedelta(seconds=60)
"""A running operator sees a new spec sooner."""


@dataclass(frozen=True, slots=True)
class Finding:
    """what: what is wrong. then: the next thing to do. page: of the documentation; "" for none."""

    what: str
    then: str = ""
    page: str = ""


@dataclass(frozen=True, slots=True)
class Why:
    name: str
    state: str
    ready: bool
    findings: tuple[Finding, ...]
    events: tuple[str, ...]


def run(kubectl: Kubectl, options: argparse.Namespace) -> int:
    partition = kubectl.get(names.PARTITIONS, options.name)
    replicas, no_pods = kubectl.find_if_allowed("pods", names.replicas(options.name))
    claims, _ = kubectl.find_if_allowed("persistentvolumeclaims", names.replicas(options.name))
    uids = {one["metadata"]["uid"] for one in (partition, *replicas, *claims)}
    events = kubectl.events(uids)
    operator = _operator(kubectl, partition) if is_late(partition, _now()) else None
    found = explain(partition, replicas, events, operator, _now())
    if options.output:
        put(rendered(asdict(found), options.output))
    else:
        put(text(found))
        if no_pods:
            put(f"\nNot looked at: {no_pods}")
    return 0 if found.ready else NotAsWanted.code


def _operator(kubectl: Kubectl, partition: Body) -> list[Body] | None:
    """Returns the operator's pods; None if the user may not see them."""
    where = (partition.get("status") or {}).get("operator", "")
    place = kubectl.within(where) if where else kubectl
    everywhere = () if where else ("--all-namespaces",)
    found, problem = place.find_if_allowed("pods", names.OPERATOR, *everywhere)
    return None if problem else found


def explain(
    partition: Body,
    replicas: list[Body],
    events: list[Body],
    operator: list[Body] | None,
    now: dt.datetime,
) -> Why:
    """Returns what is wrong, the most important first. operator: its pods, if they matter and may
    be seen. Pure."""
    status = partition.get("status") or {}
    state = str(status.get("state", ""))
    found = [*_unseen(partition, operator, now), *_of_state(partition, state)]
    found += _of_conditions(partition, state)
    found += _of_pods(partition["metadata"]["name"], replicas)
    recent = [e for e in events if e.get("type") == "Warning" and _is_recent(e, now)]
    shown = tuple(_event(e, now) for e in recent[-EVENTS_SHOWN:])
    ready = state == READY_STATE and not is_late(partition, now)
    name = f"{partition['metadata']['namespace']}/{partition['metadata']['name']}"
    return Why(name, state, ready, tuple(found), shown)


def is_late(partition: Body, now: dt.datetime) -> bool:
    """Whether the operator has had time to see the newest spec and did not. An object does not say
    when its spec changed, so the managers of its fields are asked."""
    metadata, status = partition["metadata"], partition.get("status") or {}
    if status.get("observedGeneration") == metadata.get("generation"):
        return False
    times = [metadata.get("creationTimestamp", "")]
    times += [m.get("time", "") for m in metadata.get("managedFields") or []]
    moments = [found for stamp in times if (found := moment(str(stamp))) is not None]
    return not moments or now - max(moments) > SEEN_LATE


def _unseen(partition: Body, operator: list[Body] | None, now: dt.datetime) -> list[Finding]:
    if not is_late(partition, now):
        return []
    what = "No operator has seen the newest spec of this Partition."
    page = "docs/operations/install.md"
    if operator is None:
        return [Finding(what, "Ask an administrator whether the operator runs.", page)]
    if not operator:
        return [Finding(f"{what} No pod of an operator was found.", "Install the operator.", page)]
    broken = [pod for pod in operator if not pods.is_ready(pod)]
    if len(broken) < len(operator):
        then = "Check that its watchNamespaces include this namespace, and read its log."
        return [Finding(f"{what} Its pods are ready.", then, page)]
    where = operator[0]["metadata"]["namespace"]
    them = ", ".join(pods.name(pod) for pod in operator)
    then = f"kubectl describe pod -n {where} {them.replace(',', '')}"
    return [Finding(f"{what} None of its pods is ready: {them}.", then, page)]


def _of_state(partition: Body, state: str) -> list[Finding]:
    ready = pods.conditions(partition).get("Ready") or {}
    if state == READY_STATE:
        return []
    if not state:
        return [Finding("It has no status yet.", "Wait, or check that the operator runs.")]
    advice = for_state(state)
    message = str(ready.get("message", ""))
    return [_finding(f"STATUS is {state}: {message}", advice, partition)]


def _of_conditions(partition: Body, state: str) -> list[Finding]:
    """Leaves out the conditions that STATUS repeats."""
    conditions = pods.conditions(partition)
    told = str((conditions.get("Ready") or {}).get("message", ""))
    found = []
    for one in conditions.values():
        kind, message = one["type"], str(one.get("message", ""))
        if kind in SUMMARY or kind == "Ready" or not _says_something(one):
            continue
        if message and message in told and kind not in TOLD_TWICE:
            continue
        advice = for_condition(kind, str(one.get("reason", "")))
        if advice is None and state != READY_STATE and kind in ("Progressing", "Bootstrapped"):
            continue
        found.append(_finding(f"{kind} is {one['status']}: {message}", advice, partition))
    return found


def _says_something(condition: Body) -> bool:
    known = for_condition(condition["type"], str(condition.get("reason", "")))
    return is_news(condition) or (known is not None and known.always)


def _finding(what: str, advice: Advice | None, partition: Body) -> Finding:
    if advice is None:
        return Finding(what)
    return Finding(what, advice.then.replace("NAME", partition["metadata"]["name"]), advice.page)


def _of_pods(partition: str, replicas: list[Body]) -> list[Finding]:
    found = []
    for pod in replicas:
        trouble = pods.trouble(pod)
        if not trouble:
            continue
        name = pods.name(pod)
        restarted = pods.replica(pod).get("restartCount", 0)
        then = f"kubectl describe pod {name}"
        if IMAGE_TROUBLE in trouble:
            then = f"Correct spec.image, or let the nodes pull it: {then}"
        if restarted:
            then += f"; kubectl partition logs {partition} --pod {name} --previous"
        found.append(Finding(f"Pod {name} {trouble}.", then))
    return found


def _is_recent(event: Body, now: dt.datetime) -> bool:
    when = moment(seen_at(event))
    return when is not None and now - when <= EVENTS_OLD


def _event(event: Body, now: dt.datetime) -> str:
    about = event.get("involvedObject") or {}
    times = event.get("count") or (event.get("series") or {}).get("count") or 1
    more = f", {times} times" if times > 1 else ""
    said = " ".join(str(event.get("message", "")).split())
    when = f"{age(seen_at(event), now)} ago{more}"
    return f"{event.get('reason')} of {about.get('kind')} {about.get('name')}, {when}: {said}"


def text(found: Why) -> str:
    """Returns the explanation for people. Pure."""
    head = f"Partition {found.name} is {'Ready' if found.ready else 'not Ready'}"
    if found.ready and not found.findings:
        return f"{head}, and nothing needs attention."
    lines = [f"{head}{'.' if not found.ready else ', and this needs attention:'}"]
    for number, one in enumerate(found.findings, 1):
        lines += ["", f"{number}. {_stopped(one.what)}"]
        if one.then:
            lines.append(f"   Next: {one.then}")
        if one.page:
            lines.append(f"   Read: {one.page}")
    if found.events:
        lines += ["", "Latest warnings:", indented("\n".join(found.events))]
    return "\n".join(lines)


def _stopped(sentence: str) -> str:
    return sentence if sentence.endswith((".", ")")) else f"{sentence}."


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)  # noqa: TID251  # what is late and what is recent

"""The commands that ask the operator for something: they write a field or an annotation of the
Partition, and wait until the operator has acted. What they write is pure."""

import argparse
import datetime as dt
import json
import sys
from typing import Any

from partition_kubectl import names, pods
from partition_kubectl.errors import Refused, UsageError
from partition_kubectl.kubectl import Body, Kubectl
from partition_kubectl.output import put, say, yaml
from partition_kubectl.status import fenced, members
from partition_kubectl.waiting import Patience

APPROVABLE = "WaitingForApproval"
STALLED = "Stalled"
RECOVERED, REFUSED, VOLUMES_LEFT = "QuorumRecovered", "Refused", "VolumesLeft"
ROLLED_OUT = "RolledOut"
RESTING = frozenset({APPROVABLE, STALLED, "OutsideWindow", "InvalidWindow", "OnDelete", "Paused"})
"""Reasons of RolledOut with which a rollout waits for the user or for the clock."""


def status_of(partition: Body) -> Body:
    found: Body = partition.get("status") or {}
    return found


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)  # noqa: TID251  # makes a value unique


def _stamp() -> str:
    return f"{_now():%Y-%m-%dT%H:%M:%SZ}"


# --- switchover -------------------------------------------------------------------------------


def switchover(kubectl: Kubectl, options: argparse.Namespace) -> int:
    partition = kubectl.get(names.PARTITIONS, options.name)
    replicas = kubectl.find("pods", names.replicas(options.name))
    pod = successor(partition, replicas, options.pod or "")
    if pod == status_of(partition).get("leader"):
        put(f"{pod} leads already; nothing was changed.")
        return 0
    # The part after the slash makes the value new, so that the same pod can be asked for again.
    value = f"{pod}/{_stamp()}"
    kubectl.annotate(names.PARTITIONS, options.name, {names.SWITCHOVER: value})
    put(f"Asked the operator to make {pod} the leader.")
    if options.no_wait:
        return 0

    def followed(seen: Body) -> bool:
        return bool(status_of(seen).get("switchover") == value)

    def told(seen: Body) -> str:
        return f"waiting for {pod} to lead; now {status_of(seen).get('leader') or 'nobody'} leads"

    found = Patience(options.timeout).until(
        lambda: kubectl.get(names.PARTITIONS, options.name), followed, told
    )
    leader = status_of(found).get("leader")
    if leader != pod:
        events = kubectl.events({partition["metadata"]["uid"]})
        last = [e["message"] for e in events if e.get("reason") == "SwitchoverRefused"]
        why = last[-1] if last else f"{leader or 'nobody'} leads"
        raise Refused(f"the operator did not hand the leadership to {pod}: {why}")
    put(f"{pod} leads.")
    return 0


def successor(partition: Body, replicas: list[Body], asked: str) -> str:
    """Returns the pod that shall lead: the one that was asked for, or the first voter that is ready
    and does not lead. Raises Refused, UsageError. Pure."""
    rows = members(partition, replicas, [])
    voters = [row for row in rows if row["role"] in ("leader", "voter")]
    if asked:
        if asked not in [row["pod"] for row in voters]:
            known = ", ".join(row["pod"] for row in voters) or "none"
            raise UsageError(f"--to {asked}: not a voter of this Partition; the voters are {known}")
        return asked
    ready = [row["pod"] for row in voters if row["role"] == "voter" and row["ready"]]
    if not ready:
        raise Refused("no other voter is ready, so nobody can take the leadership over")
    return str(ready[0])


# --- fields of the spec -----------------------------------------------------------------------


def pause(kubectl: Kubectl, options: argparse.Namespace) -> int:
    _set(kubectl, options.name, "paused", value=True)
    put(
        f"{options.name} is paused: the operator changes nothing but certificates and fences. The "
        f"replicas serve. To go on: kubectl partition resume {options.name}"
    )
    return 0


def resume(kubectl: Kubectl, options: argparse.Namespace) -> int:
    _set(kubectl, options.name, "paused", value=False)
    put(f"{options.name} is not paused: the operator follows its spec.")
    return 0


def hibernate(kubectl: Kubectl, options: argparse.Namespace) -> int:
    confirm(options, f"All pods of {options.name} will stop, and nobody can read or write it.")
    _set(kubectl, options.name, "hibernated", value=True)
    put(
        f"Asked the operator to stop all pods of {options.name}. Its volumes stay. "
        f"To wake it: kubectl partition wake {options.name}"
    )
    return 0


def wake(kubectl: Kubectl, options: argparse.Namespace) -> int:
    _set(kubectl, options.name, "hibernated", value=False)
    put(f"Asked the operator to start the pods of {options.name} again, on their volumes.")
    if not options.no_wait:
        _until_ready(kubectl, options)
    return 0


def _set(kubectl: Kubectl, name: str, field: str, *, value: bool) -> None:
    stored = kubectl.patch(names.PARTITIONS, name, {"spec": {field: value}})
    if bool((stored.get("spec") or {}).get(field)) != value:
        # The API server drops fields that its CRD does not have.
        raise Refused(
            f"the cluster's CRD has no field spec.{field}: upgrade the operator's chart first"
        )


def _until_ready(kubectl: Kubectl, options: argparse.Namespace) -> None:
    def ready(seen: Body) -> bool:
        current = status_of(seen).get("observedGeneration") == seen["metadata"].get("generation")
        return current and status_of(seen).get("state") == "Ready"

    def told(seen: Body) -> str:
        return f"waiting until it is Ready; STATUS is {status_of(seen).get('state') or 'not set'}"

    Patience(options.timeout).until(
        lambda: kubectl.get(names.PARTITIONS, options.name), ready, told
    )
    put(f"{options.name} is Ready.")


# --- rollouts ---------------------------------------------------------------------------------


def restart(kubectl: Kubectl, options: argparse.Namespace) -> int:
    before = status_of(kubectl.get(names.PARTITIONS, options.name)).get("revision", "")
    kubectl.annotate(names.PARTITIONS, options.name, {names.RESTART: _stamp()})
    put(f"Asked the operator to replace all pods of {options.name}, one after the other.")
    if options.no_wait:
        return 0

    def done(seen: Body) -> bool:
        new = status_of(seen).get("revision", "") not in ("", before)
        rolled = pods.conditions(seen).get(ROLLED_OUT) or {}
        return new and (rolled.get("status") == "True" or rolled.get("reason") in RESTING)

    def told(seen: Body) -> str:
        rolled = pods.conditions(seen).get(ROLLED_OUT) or {}
        return f"waiting for the rollout: {rolled.get('message') or 'not begun'}"

    found = Patience(options.timeout).until(
        lambda: kubectl.get(names.PARTITIONS, options.name), done, told
    )
    rolled = pods.conditions(found)[ROLLED_OUT]
    if rolled["reason"] == STALLED:
        raise Refused(f"the rollout has stalled: {rolled['message']}")
    put(f"{rolled['reason']}: {rolled['message']}")
    return 0


def approve(kubectl: Kubectl, options: argparse.Namespace) -> int:
    revision = approvable(kubectl.get(names.PARTITIONS, options.name))
    kubectl.annotate(names.PARTITIONS, options.name, {names.APPROVE: revision})
    put(f"Approved revision {revision}: the operator replaces the pods that are behind it.")
    return 0


def approvable(partition: Body) -> str:
    """Returns the revision that waits for approval. Raises Refused. Pure."""
    rolled = pods.conditions(partition).get(ROLLED_OUT) or {}
    if rolled.get("reason") != APPROVABLE:
        now = rolled.get("reason") or "not known yet"
        raise Refused(f"no rollout waits for approval: condition {ROLLED_OUT} is {now}")
    return str(status_of(partition)["revision"])


# --- fences -----------------------------------------------------------------------------------


def fence(kubectl: Kubectl, options: argparse.Namespace) -> int:
    partition = kubectl.get(names.PARTITIONS, options.name)
    value = with_fences(partition, options.pods)
    if loses_quorum(partition, value.split(",")):
        confirm(options, f"Without {value} the group has no quorum: nobody can write.")
    kubectl.annotate(names.PARTITIONS, options.name, {names.FENCE: value})
    put(
        f"Asked the operator to fence {value}. A fenced replica answers nobody; its process stays "
        f"for inspection. To end it: kubectl partition unfence {options.name} POD"
    )
    return 0


def unfence(kubectl: Kubectl, options: argparse.Namespace) -> int:
    partition = kubectl.get(names.PARTITIONS, options.name)
    if not options.pods and not options.all:
        raise UsageError("name the pods whose fence shall end, or give --all")
    value = without_fences(partition, options.pods)
    kubectl.annotate(names.PARTITIONS, options.name, {names.FENCE: value})
    put(f"Asked the operator to end the fence. Still fenced: {value or 'no replica'}.")
    return 0


def with_fences(partition: Body, asked: list[str]) -> str:
    """Returns the annotation's value with more pods. Raises UsageError. Pure."""
    name, known = partition["metadata"]["name"], set(fenced(partition))
    for pod in asked:
        stem, _, number = pod.rpartition("-")
        if stem != name or not number.isdigit():
            raise UsageError(f"{pod} is not a pod of {name}: they are {name}-0, {name}-1, …")
    return ",".join(sorted(known | set(asked)))


def loses_quorum(partition: Body, fences: list[str]) -> bool:
    """Whether the group has no quorum without these pods. Pure."""
    status = status_of(partition)
    voters = {m.get("pod") for m in status.get("members") or [] if m.get("role") == "voter"}
    critical = set(status.get("quorumCriticalPods") or [])
    most = (len(voters) - 1) // 2
    return bool(critical & set(fences)) or len(voters & set(fences)) > most


def without_fences(partition: Body, asked: list[str]) -> str | None:
    """Returns the annotation's value without these pods, or without any pod if none is named; None
    if no pod is left. Raises Refused. Pure."""
    known = fenced(partition)
    for pod in asked:
        if pod not in known:
            raise Refused(f"{pod} is not fenced; fenced are: {', '.join(known) or 'no pods'}")
    left = [pod for pod in known if asked and pod not in asked]
    return ",".join(left) or None


# --- recovery ---------------------------------------------------------------------------------


def recover(kubectl: Kubectl, options: argparse.Namespace) -> int:
    partition = kubectl.get(names.PARTITIONS, options.name)
    lost = quorum_loss(partition)
    if not options.source or not options.accept_loss:
        put(yaml(lost).rstrip())
        put("")
        put("Choose the survivor that shall be the group, and accept what may be lost:")
        put(
            f"  kubectl partition recover {options.name} --from POD "
            f"--accept-loss {lost.get('token', '')}"
        )
        return 0
    value = recovery(partition, options.source, options.accept_loss)
    confirm(
        options,
        f"{options.source} becomes the only member. Writes that it lacks are lost for good, and "
        "the other members can never come back.",
    )
    kubectl.annotate(names.PARTITIONS, options.name, {names.RECOVER: value})
    put(f"Asked the operator to recover {options.name} from {options.source}.")
    if not options.no_wait:
        before = pods.conditions(partition).get(RECOVERED) or {}
        _until_recovered(kubectl, options, str(before.get("message", "")))
    return 0


def _until_recovered(kubectl: Kubectl, options: argparse.Namespace, before: str) -> None:
    """Ends, too, if volumes of the former group are left, which only the user may delete. before:
    the message that an earlier order has left."""

    def condition(seen: Body) -> Body:
        return recovery_outcome(seen, options.source, options.accept_loss, before)

    def done(seen: Body) -> bool:
        found = condition(seen)
        return found.get("status") == "True" or found.get("reason") in (REFUSED, VOLUMES_LEFT)

    def told(seen: Body) -> str:
        return f"waiting for the recovery: {condition(seen).get('message') or 'not begun'}"

    found = condition(
        Patience(options.timeout).until(
            lambda: kubectl.get(names.PARTITIONS, options.name), done, told
        )
    )
    if found["reason"] == REFUSED:
        raise Refused(f"the operator refuses the recovery: {found['message']}")
    put(f"{found['reason']}: {found['message']}")


def recovery_outcome(partition: Body, pod: str, token: str, before: str) -> Body:
    """Returns the condition if it is about this order, else an empty one. before: the message that
    an earlier order has left, which may have been the same. Pure."""
    order = status_of(partition).get("recovery") or {}
    found: Body = pods.conditions(partition).get(RECOVERED) or {}
    message = str(found.get("message", ""))
    # An order from just before may be refused only now. A refusal names its order.
    ours = f"from {pod} with token {token}:" in message and message != before
    refused = found.get("reason") == REFUSED and ours
    return found if order.get("acceptLoss") == token or refused else {}


def quorum_loss(partition: Body) -> dict[str, Any]:
    """Returns status.quorumLoss. Raises Refused if the quorum is not lost. Pure."""
    found: dict[str, Any] = status_of(partition).get("quorumLoss") or {}
    if found and not found.get("token"):
        raise Refused(f"no recovery is possible now: {found.get('message', 'no survivor answers')}")
    if not found:
        raise Refused(
            "the operator has not found a lost quorum (status.quorumLoss is empty), so there is "
            "nothing to recover: kubectl partition why says what is wrong"
        )
    return found


def recovery(partition: Body, source: str, token: str) -> str:
    """Returns the annotation's value. Raises Refused if the token is not the present one. Pure."""
    expected = quorum_loss(partition)["token"]
    if token != expected:
        raise Refused(
            "--accept-loss: the token is not the present one. The survivors have changed since; "
            "look at them again without --accept-loss"
        )
    return json.dumps({"from": source, "acceptLoss": token})


def confirm(options: argparse.Namespace, warning: str) -> None:
    """Asks at a terminal. Raises UsageError elsewhere without --yes, and Refused for a no."""
    if options.yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{warning} Give --yes to do it without a question.")
    say(warning)
    sys.stderr.write("Type yes to go on: ")
    sys.stderr.flush()
    if sys.stdin.readline().strip() != "yes":
        raise Refused("nothing was changed")
